//! `soma udf`: the UDFs that streaming SQL is given, as their dylibs describe themselves. It calls none of them.

use std::path::PathBuf;

use analytics::udf::{self, Said};
use serde_json::{Value as Json, json};

use super::context::Context;
use super::failure::{Done, FAILED, Failure, OK};
use super::out;
use crate::config::Environment;

/// Shows UDFs.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List names, arguments, results and what each does
    #[command(after_help = "Example:
  soma udf list

They are built by `make udfs` from processors/udfs, whose README.md says how to add one. Exit code: 0 there are some, 1 there are
none, 2 one of them cannot be loaded.")]
    List {
        /// Folder with the dylibs (default: $SOMA_UDFS, else udfs in the cache)
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
}

/// Where the dylibs are when nobody says: what `make udfs` writes to.
pub(crate) fn folder(env: &Environment) -> PathBuf {
    let var = |name| env.get(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = || {
        let cache = var("XDG_CACHE_HOME").unwrap_or_else(|| var("HOME").unwrap_or_default().join(".cache"));
        cache.join("somaagenthub")
    };
    var("SOMA_UDFS").unwrap_or_else(|| var("SOMA_CACHE").unwrap_or_else(cache).join("udfs"))
}

pub(super) fn run(command: &Command, cx: &Context) -> Done {
    match command {
        Command::List { dir } => list(dir.clone().unwrap_or_else(|| folder(&cx.env)), cx),
    }
}

fn list(dir: PathBuf, cx: &Context) -> Done {
    let udfs = udf::load(&dir).map_err(|faults| {
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Failure::input(
            "UDF_UNUSABLE",
            lines.join("\n"),
            "make udfs, or another folder with --dir",
        )
    })?;
    if cx.json {
        out::json(&Json::from_iter(udfs.said.iter().map(shown)))?;
    } else if udfs.said.is_empty() {
        out::line(format!("no UDFs in {}", dir.display()))?;
    } else {
        let rows: Vec<_> = udfs
            .said
            .iter()
            .map(|said| vec![said.to_string(), said.doc.clone()])
            .collect();
        out::table(&["UDF", "GIVES"], &rows)?;
    }
    Ok(if udfs.said.is_empty() { FAILED } else { OK })
}

fn shown(said: &Said) -> Json {
    let arg = |a: &udf::Arg| json!({"name": a.name, "type": a.kind, "nullable": a.nullable});
    json!({
        "name": said.name,
        "doc": said.doc,
        "aggregate": said.aggregate,
        "args": said.args.iter().map(arg).collect::<Vec<_>>(),
        "returns": said.returns.kind,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_where_make_puts_them() {
        let at = |vars: &[(&str, &str)]| {
            let vars = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            folder(&Environment::of(vars)).display().to_string()
        };
        assert_eq!(at(&[("HOME", "/h"), ("SOMA_CACHE", "/c"), ("SOMA_UDFS", "/u")]), "/u");
        assert_eq!(
            at(&[("HOME", "/h"), ("SOMA_CACHE", "/c"), ("SOMA_UDFS", "")]),
            "/c/udfs"
        );
        assert_eq!(at(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/somaagenthub/udfs");
        assert_eq!(at(&[("HOME", "/h")]), "/h/.cache/somaagenthub/udfs");
    }
}
