//! `tenant_tier(tenant, tiers)`: the tier a tenant is in. One file, posted to Arroyo as it stands.
/*
[dependencies]
serde_json = { version = "1", features = ["raw_value"] }
*/

use std::cell::RefCell;
use std::collections::BTreeMap;

#[cfg(not(test))]
use arroyo_udf_plugin::udf;

/// Tier of a tenant by a JSON object of tenant to tier, such as '{"acme": "enterprise", "*": "basic"}'; `*` is for
/// tenants it does not name, without it they are NULL, as is everything when the text is no such object.
#[cfg(not(test))]
#[udf]
fn tenant_tier(tenant: &str, tiers: &str) -> Option<String> {
    plain(tenant, tiers)
}

type Tiers = Option<BTreeMap<String, String>>;

thread_local! {
    /// The text read last and what it says: the same literal comes with every row of a query.
    static LAST: RefCell<(String, Tiers)> = const { RefCell::new((String::new(), None)) };
}

/// The function itself.
pub fn plain(tenant: &str, tiers: &str) -> Option<String> {
    LAST.with_borrow_mut(|(text, read)| {
        if text != tiers {
            *read = serde_json::from_str(tiers).ok();
            tiers.clone_into(text);
        }
        let tiers = read.as_ref()?;
        tiers.get(tenant).or_else(|| tiers.get("*")).cloned()
    })
}
