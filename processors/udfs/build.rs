//! Reads what each UDF says of itself out of its source, with the parser Arroyo reads it with, and writes it down
//! for its plugin to say.

use std::path::{Path, PathBuf};
use std::{env, fs};

use arroyo_udf_common::parse::{inner_type, NullableType, ParsedUdf};
use serde_json::{json, Value};
use syn::{Attribute, Expr, FnArg, Item, ItemFn, Lit, Meta, Pat};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for folder in ["src", "faulty"] {
        println!("cargo:rerun-if-changed={folder}");
        for entry in fs::read_dir(folder).expect(folder) {
            let path = entry.expect(folder).path();
            let text = fs::read_to_string(&path).expect("a source file");
            if let Some(said) = describe(&path, &text) {
                let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
                fs::write(out.join(format!("{name}.json")), said.to_string()).expect("OUT_DIR is writable");
            }
        }
    }
    println!("cargo:rerun-if-changed=Cargo.lock");
}

/// The one function of a file that is a UDF.
fn describe(path: &Path, text: &str) -> Option<Value> {
    let file = syn::parse_file(text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let function = file.items.iter().find_map(|item| match item {
        Item::Fn(f) if f.attrs.iter().any(|a| a.path().is_ident("udf")) => Some(f),
        _ => None,
    })?;
    let udf = ParsedUdf::try_parse(function).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let args: Vec<_> = names(function)
        .into_iter()
        .zip(&udf.args)
        .map(|(name, arg)| typed(name, arg))
        .collect();
    Some(json!({
        "abi": 1,
        "plugin": locked("arroyo-udf-plugin"),
        "panic": env::var_os("CARGO_CFG_PANIC").unwrap_or_default().to_string_lossy(),
        "name": udf.name,
        "doc": doc(&function.attrs),
        "args": args,
        "returns": typed(String::new(), &udf.ret_type),
        "aggregate": udf.vec_arguments > 0,
        "async": udf.udf_type.is_async(),
    }))
}

/// A type as the host knows it: arrow's own name, and for an aggregate's argument that of its values.
fn typed(name: String, of: &NullableType) -> Value {
    let list = inner_type(&of.data_type);
    let kind = list.as_ref().unwrap_or(&of.data_type);
    json!({"name": name, "type": kind.to_string(), "nullable": of.nullable, "list": list.is_some()})
}

fn names(function: &ItemFn) -> Vec<String> {
    let name = |arg: &FnArg| match arg {
        FnArg::Typed(t) => match &*t.pat {
            Pat::Ident(ident) => ident.ident.to_string(),
            _ => String::from("_"),
        },
        FnArg::Receiver(_) => String::from("self"),
    };
    function.sig.inputs.iter().map(name).collect()
}

fn doc(attributes: &[Attribute]) -> String {
    let line = |a: &Attribute| match &a.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    attributes.iter().filter_map(line).collect::<Vec<_>>().join(" ")
}

/// Version of a package in the lock file: what the dylib is built with, not what we would like.
fn locked(package: &str) -> String {
    let lock = fs::read_to_string("Cargo.lock").expect("Cargo.lock");
    let after = lock
        .split(&format!("name = \"{package}\"\nversion = \""))
        .nth(1)
        .unwrap_or_else(|| panic!("{package} is not in Cargo.lock"));
    after.split('"').next().unwrap_or_default().to_owned()
}
