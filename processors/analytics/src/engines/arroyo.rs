//! A file of streaming SQL as Arroyo's REST API takes it: a connection profile, and a pipeline with the text as it is but for our own
//! options. Not yet run against a live cluster: Arroyo cannot be installed from the registries this project builds from.

use std::ops::Range;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use kernel::ConfigFault;
use serde_json::{Value, json};

use super::support::{LOOKUP_ON_ARROYO, ROWS_ON_ARROYO, has_rows};
use crate::streaming::dialect::{self, at};
use crate::streaming::options::Role;

/// Where Arroyo finds what the text names, and how the pipeline is to run.
#[derive(Clone, Debug)]
pub struct Arroyo<'a> {
    /// Name of the pipeline; the connection profile has it too.
    pub name: &'a str,
    /// Kafka's addresses, as the cluster reaches them.
    pub brokers: &'a str,
    /// The schema registry's, likewise.
    pub registry: &'a str,
    /// How many subtasks each operator has.
    pub parallelism: u32,
    /// Rust source of each UDF.
    pub udfs: &'a [String],
}

/// A request of Arroyo's REST API.
#[derive(Clone, Debug, PartialEq)]
pub struct Post {
    /// Path, from the API's root.
    pub path: &'static str,
    /// Body.
    pub body: Value,
}

impl Arroyo<'_> {
    /// The requests, in order.
    ///
    /// # Errors
    /// What is wrong with the text, as [`crate::streaming::Program::plan`] says it.
    pub fn render(&self, sql: &str) -> Result<Vec<Post>, Vec<ConfigFault>> {
        let file = dialect::read(sql)?;
        let lookups = file.tables.values().filter(|t| t.options.role == Role::Lookup);
        let rows = file.inserts.iter().filter(|i| has_rows(&file, &i.query, 0));
        let refused: Vec<_> = lookups
            .map(|t| ConfigFault::new(at(t.at), format!("lookup `{}`: {LOOKUP_ON_ARROYO}", t.name)))
            .chain(rows.map(|i| ConfigFault::new(at(i.at), format!("insert into {}: {ROWS_ON_ARROYO}", i.into))))
            .collect();
        if !refused.is_empty() {
            return Err(refused);
        }
        let profile = json!({
            "name": self.name,
            "connector": "kafka",
            "config": {
                "bootstrapServers": self.brokers,
                "authentication": {},
                "schemaRegistryEnum": { "endpoint": self.registry },
            },
        });
        let udfs: Vec<Value> = self
            .udfs
            .iter()
            .map(|source| json!({"definition": source, "language": "rust"}))
            .collect();
        let pipeline = json!({
            "name": self.name,
            "query": self.text(sql)?,
            "udfs": udfs,
            "parallelism": self.parallelism,
        });
        Ok(vec![
            Post {
                path: "/api/v1/connection_profiles",
                body: profile,
            },
            Post {
                path: "/api/v1/pipelines",
                body: pipeline,
            },
        ])
    }

    /// The text without `soma.` options, each table with the connection profile's name. Comments and lines stay.
    fn text(&self, sql: &str) -> Result<String, Vec<ConfigFault>> {
        let tokens = Tokenizer::new(&GenericDialect {}, sql)
            .tokenize_with_location()
            .map_err(|e| vec![ConfigFault::new(at(e.location), e.message)])?;
        let mut kept: Vec<Token> = Vec::new();
        let mut next = 0;
        for range in ours(&tokens) {
            kept.extend(tokens[next..range.start].iter().map(|t| t.token.clone()));
            next = range.end;
        }
        kept.extend(tokens[next..].iter().map(|t| t.token.clone()));
        let mut text = String::new();
        for (i, token) in kept.iter().enumerate() {
            text += &token.to_string();
            let with = i
                .checked_sub(1)
                .and_then(|b| kept[..=b].iter().rfind(|t| !matches!(t, Token::Whitespace(_))));
            if *token == Token::LParen && with.is_some_and(|t| is_word(t, "with")) {
                text += &format!("connection_profile = '{}', ", self.name.replace('\'', "''"));
            }
        }
        Ok(text)
    }
}

fn is_word(token: &Token, text: &str) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
}

/// Where our own options stand, each with the comma that parts it from its neighbour.
fn ours(tokens: &[TokenWithSpan]) -> Vec<Range<usize>> {
    let space = |t: &TokenWithSpan| matches!(t.token, Token::Whitespace(_));
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let named = match &tokens[i].token {
            Token::SingleQuotedString(text) => text.starts_with("soma."),
            Token::Word(word) => word.value == "soma" || word.value.starts_with("soma."),
            _ => false,
        };
        let before = (0..i).rfind(|b| !space(&tokens[*b]));
        let option = named && before.is_some_and(|b| matches!(tokens[b].token, Token::Comma | Token::LParen));
        let end = (i..tokens.len()).find(|e| matches!(tokens[*e].token, Token::Comma | Token::RParen));
        match (option, before, end) {
            (true, Some(before), Some(end)) => {
                let first = tokens[before].token == Token::LParen;
                let range = if first {
                    i..end + usize::from(tokens[end].token == Token::Comma)
                } else {
                    before..end
                };
                i = end;
                found.push(range);
            }
            _ => i += 1,
        }
    }
    found
}
