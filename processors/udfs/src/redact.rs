//! `redact(text)`: takes out of a text what must not be kept. One file, posted to Arroyo as it stands, in plain Rust: no pattern
//! language, so that nothing in a text can make it slow.

#[cfg(not(test))]
use arroyo_udf_plugin::udf;

/// The text with `[email]`, `[token]`, `[password]`, `[card]`, `[iban]` and `[private key]` in place of e-mail
/// addresses, access tokens, passwords, payment card numbers, account numbers and private keys in PEM.
#[cfg(not(test))]
#[udf]
fn redact(text: &str) -> String {
    plain(text)
}

/// What a token of a system begins with, how many more characters it has at least, and whether all of those are upper
/// case or digits. The systems: GitHub, GitLab, Slack, AWS, Google, OpenAI and Anthropic, Stripe, npm, PyPI, Hugging Face.
const TOKENS: [(&str, usize, bool); 22] = [
    ("ghp_", 36, false),
    ("gho_", 36, false),
    ("ghu_", 36, false),
    ("ghs_", 36, false),
    ("ghr_", 36, false),
    ("github_pat_", 22, false),
    ("glpat-", 20, false),
    ("xoxb-", 10, false),
    ("xoxp-", 10, false),
    ("xoxa-", 10, false),
    ("xoxs-", 10, false),
    ("AKIA", 16, true),
    ("ASIA", 16, true),
    ("AIza", 35, false),
    ("ya29.", 20, false),
    ("sk-", 20, false),
    ("sk_live_", 16, false),
    ("sk_test_", 16, false),
    ("rk_live_", 16, false),
    ("npm_", 36, false),
    ("pypi-", 50, false),
    ("hf_", 30, false),
];

/// Names whose value is taken out: `password=...`, `"api_key": "..."`, `token: ...`. Compared without case, `-` as `_`.
const NAMES: [(&str, &str); 11] = [
    ("access_token", "[token]"),
    ("api_key", "[token]"),
    ("apikey", "[token]"),
    ("auth_token", "[token]"),
    ("client_secret", "[token]"),
    ("passwd", "[password]"),
    ("password", "[password]"),
    ("pwd", "[password]"),
    ("refresh_token", "[token]"),
    ("secret", "[token]"),
    ("token", "[token]"),
];

/// The function itself. From left to right; at each place the first of the finders that finds something takes it out.
pub fn plain(text: &str) -> String {
    let finders = [
        private_key,
        url_password,
        named,
        bearer,
        token,
        web_token,
        email,
        iban,
        card,
    ];
    let mut out = String::with_capacity(text.len());
    let (mut at, mut inside) = (0, false);
    while let Some(c) = text[at..].chars().next() {
        // Nothing begins inside a word.
        let found = if inside && is_word(c) {
            None
        } else {
            finders.iter().find_map(|find| find(text, at))
        };
        match found {
            Some(found) => {
                out.push_str(&text[at..found.from]);
                out.push_str(found.shown);
                at = found.to;
                inside = false;
            }
            None => {
                out.push(c);
                at += c.len_utf8();
                inside = is_word(c);
            }
        }
    }
    out
}

/// What to put in place of which bytes. `from` may be after the place it was found at, and `to` is after both.
struct Found {
    from: usize,
    to: usize,
    shown: &'static str,
}

fn found(from: usize, to: usize, shown: &'static str) -> Option<Found> {
    Some(Found { from, to, shown })
}

/// Whether a word begins here: no letter, digit or `_` is before it.
fn begins(text: &str, at: usize) -> bool {
    !text[..at].chars().next_back().is_some_and(is_word)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Number of bytes from here that fit.
fn run(text: &str, fits: impl Fn(char) -> bool) -> usize {
    text.find(|c| !fits(c)).unwrap_or(text.len())
}

/// From `-----BEGIN ... PRIVATE KEY` to its end, or to the end of the text.
fn private_key(text: &str, at: usize) -> Option<Found> {
    let rest = text[at..].strip_prefix("-----BEGIN ")?;
    let name = rest.split("-----").next()?;
    if !name.ends_with("PRIVATE KEY") || name.len() > 40 {
        return None;
    }
    let ending = format!("-----END {name}-----");
    let to = rest
        .find(&ending)
        .map_or(text.len(), |i| text.len() - rest.len() + i + ending.len());
    found(at, to, "[private key]")
}

/// The password of `scheme://user:password@host`.
fn url_password(text: &str, at: usize) -> Option<Found> {
    let rest = text[at..].strip_prefix("://")?;
    let login = &rest[..run(rest, |c| {
        !c.is_whitespace() && !matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>')
    })];
    let (user, password) = login.get(..login.rfind('@')?)?.split_once(':')?;
    let from = at + 3 + user.len() + 1;
    (!password.is_empty()).then_some(())?;
    found(from, from + password.len(), "[password]")
}

/// The value of one of [`NAMES`].
fn named(text: &str, at: usize) -> Option<Found> {
    if !text.as_bytes()[at].is_ascii_alphabetic() || !begins(text, at) {
        return None;
    }
    let rest = &text[at..];
    let name = &rest[..run(rest, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))];
    let plain = name.to_ascii_lowercase().replace('-', "_");
    // DB_PASSWORD and x-api-key end in one of them; `passwords` and `tokenizer` do not.
    let (_, shown) = NAMES.iter().find(|(known, _)| {
        plain
            .strip_suffix(known)
            .is_some_and(|before| before.is_empty() || before.ends_with('_'))
    })?;
    let after = rest[name.len()..]
        .trim_start_matches(['"', '\''])
        .trim_start_matches(' ');
    let value = after.strip_prefix([':', '='])?.trim_start_matches(' ');
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let value = quote.map_or(value, |_| &value[1..]);
    let length = match quote {
        Some(quote) => run(value, |c| c != quote),
        None => run(value, |c| {
            !c.is_whitespace() && !matches!(c, '&' | ',' | ';' | ')' | '}' | ']' | '"' | '\'')
        }),
    };
    let from = text.len() - value.len();
    // Once is enough.
    (length > 0 && !value.starts_with(shown)).then_some(())?;
    found(from, from + length, shown)
}

/// The credentials of an `Authorization` header.
fn bearer(text: &str, at: usize) -> Option<Found> {
    let scheme = ["Bearer ", "Basic "].iter().find(|s| {
        text[at..]
            .get(..s.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(s))
    })?;
    let from = at + scheme.len();
    let length = run(&text[from..], |c| is_token(c) || matches!(c, '+' | '/' | '=' | '~'));
    (begins(text, at) && length >= 8).then_some(())?;
    found(from, from + length, "[token]")
}

/// One of [`TOKENS`].
fn token(text: &str, at: usize) -> Option<Found> {
    let rest = &text[at..];
    let (start, least, upper) = TOKENS
        .iter()
        .find(|(start, ..)| rest.starts_with(start) && begins(text, at))?;
    let body = &rest[start.len()..];
    let length = run(body, |c| {
        if *upper {
            c.is_ascii_uppercase() || c.is_ascii_digit()
        } else {
            is_token(c)
        }
    });
    let length = body[..length].trim_end_matches('.').len();
    (length >= *least).then_some(())?;
    found(at, at + start.len() + length, "[token]")
}

/// A JSON web token: three parts in base64, of which the first two are JSON objects.
fn web_token(text: &str, at: usize) -> Option<Found> {
    let rest = text[at..].strip_prefix("eyJ").filter(|_| begins(text, at))?;
    let whole = &text[at..at + 3 + run(rest, is_token)];
    let whole = whole.trim_end_matches('.');
    let parts: Vec<_> = whole.split('.').collect();
    let is_one = parts.len() == 3 && parts[1].starts_with("eyJ");
    is_one.then_some(())?;
    found(at, at + whole.len(), "[token]")
}

/// An e-mail address.
fn email(text: &str, at: usize) -> Option<Found> {
    let is_local = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '%' | '+' | '-');
    if text[..at].chars().next_back().is_some_and(is_local) {
        return None;
    }
    let local = run(&text[at..], is_local);
    let rest = text[at + local..].strip_prefix('@')?;
    let domain = rest[..run(rest, |c| c.is_alphanumeric() || matches!(c, '.' | '-'))].trim_end_matches(['.', '-']);
    let (before, last) = domain.rsplit_once('.')?;
    let is_one =
        local > 0 && !before.is_empty() && last.chars().count() >= 2 && !last.starts_with(|c: char| c.is_numeric());
    is_one.then_some(())?;
    found(at, at + local + 1 + domain.len(), "[email]")
}

/// Digits from here, single spaces or hyphens between them left out, and the byte after each.
fn spaced(text: &str, at: usize, most: usize) -> Vec<(u8, usize)> {
    let bytes = text.as_bytes();
    let mut found: Vec<(u8, usize)> = Vec::new();
    let mut i = at;
    while found.len() < most {
        match bytes.get(i) {
            Some(b) if b.is_ascii_alphanumeric() => found.push((b.to_ascii_uppercase(), i + 1)),
            Some(b' ' | b'-') if found.last().is_some_and(|(_, end)| *end == i) => {}
            _ => break,
        }
        i += 1;
    }
    found
}

/// An international bank account number: two letters, two check digits, 11 to 30 more, and 1 as the remainder by 97.
fn iban(text: &str, at: usize) -> Option<Found> {
    let bytes = text.as_bytes().get(at..at + 4)?;
    let is_start = bytes[..2].iter().all(u8::is_ascii_uppercase) && bytes[2..].iter().all(u8::is_ascii_digit);
    if !is_start || !begins(text, at) {
        return None;
    }
    let chars = spaced(text, at, 34);
    // The longest that is right: a word may follow.
    (15..=chars.len()).rev().find_map(|n| {
        let to = chars[n - 1].1;
        let ends = !text[to..].chars().next().is_some_and(is_word);
        let turned = chars[4..n].iter().chain(&chars[..4]);
        let rest = turned.fold(0_u32, |rest, (b, _)| match b {
            b'0'..=b'9' => (rest * 10 + u32::from(b - b'0')) % 97,
            _ => (rest * 100 + u32::from(b - b'A') + 10) % 97,
        });
        (ends && rest == 1).then(|| found(at, to, "[iban]")).flatten()
    })
}

/// A payment card number: 13 to 19 digits whose last is right by Luhn's sum.
fn card(text: &str, at: usize) -> Option<Found> {
    if !text.as_bytes()[at].is_ascii_digit() || !begins(text, at) {
        return None;
    }
    let chars = spaced(text, at, 20);
    let digits = chars.iter().take_while(|(b, _)| b.is_ascii_digit()).count();
    (13..=digits.min(19)).rev().find_map(|n| {
        let to = chars[n - 1].1;
        let ends = !text[to..].chars().next().is_some_and(is_word);
        let sum: u32 = (chars[..n].iter().rev().enumerate())
            .map(|(i, (b, _))| match u32::from(b - b'0') {
                digit if i % 2 == 0 => digit,
                digit if digit > 4 => digit * 2 - 9,
                digit => digit * 2,
            })
            .sum();
        let same = chars[..n].iter().all(|(b, _)| *b == chars[0].0);
        (ends && !same && sum % 10 == 0)
            .then(|| found(at, to, "[card]"))
            .flatten()
    })
}
