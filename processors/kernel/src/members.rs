//! Who holds which roles: the fold of `soma.members`, the same for every stage.

use std::collections::BTreeMap;

use schemas::records::Member;

/// Stands for every tenant.
pub const EVERY: &str = "*";

/// Roles as they stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    by_key: BTreeMap<(String, String), Vec<String>>,
}

impl Members {
    /// Takes a record in: it replaces what was known of the person in that tenant.
    pub fn apply(&mut self, member: Member) {
        let key = (member.tenant, member.person);
        if member.roles.is_empty() {
            self.by_key.remove(&key);
        } else {
            self.by_key.insert(key, member.roles);
        }
    }

    /// Whether somebody holds one of these roles, in the tenant or in all of them.
    pub fn holds(&self, tenant: &str, person: &str, roles: &[String]) -> bool {
        if self.by_key.is_empty() {
            return false;
        }
        [tenant, EVERY].into_iter().any(|tenant| {
            let held = self.by_key.get(&(tenant.to_owned(), person.to_owned()));
            held.is_some_and(|held| held.iter().any(|role| roles.contains(role)))
        })
    }

    /// Tenant, person and roles of everybody who has any.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str, &[String])> {
        self.by_key
            .iter()
            .map(|((tenant, person), roles)| (tenant.as_str(), person.as_str(), roles.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_of_a_tenant_or_of_all_and_end() {
        let mut members = Members::default();
        let mut say = |tenant: &str, person: &str, roles: &[&str]| {
            members.apply(Member {
                tenant: tenant.into(),
                person: person.into(),
                roles: roles.iter().map(|r| (*r).to_owned()).collect(),
                ..Member::default()
            });
            members.clone()
        };
        let release = ["release".to_owned()];
        let now = say("acme", "grace", &["release", "ops"]);
        assert!(now.holds("acme", "grace", &release));
        assert!(!now.holds("globex", "grace", &release) && !now.holds("acme", "ada", &release));
        assert!(say("*", "lin", &["release"]).holds("globex", "lin", &release));
        let now = say("acme", "grace", &[]);
        assert!(!now.holds("acme", "grace", &release));
        assert_eq!(now.all().count(), 1);
    }
}
