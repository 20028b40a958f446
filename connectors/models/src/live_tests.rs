//! The real model on real sentences. Feature `live`: it fails, saying what to do, where the model is not set up.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use kernel::Embedder;

use crate::MiniLm;

fn path(name: &str) -> PathBuf {
    let fix = "run `python3 deploy/dev/stack.py setup` and load .soma/dev.env";
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: {fix}"))
        .into()
}

fn load() -> MiniLm {
    let [runtime, model, tokenizer] = ["ORT_DYLIB_PATH", "SOMA_MODEL_PATH", "SOMA_TOKENIZER_PATH"].map(path);
    MiniLm::load(&runtime, &model, &tokenizer, 1).unwrap()
}

fn embed(model: &MiniLm, texts: &[&str]) -> Vec<Vec<f32>> {
    model
        .embed(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>())
        .unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[test]
#[ignore = "needs the model's files: make live"]
fn paraphrases_are_near_and_unrelated_texts_are_far() {
    let model = load();
    for (text, same, other) in [
        (
            "The deployment of the payment service failed.",
            "Rolling out the payments service did not succeed.",
            "A cat sleeps in the sun.",
        ),
        (
            "The database is running out of disk space.",
            "There is almost no storage left on the database server.",
            "She plays the violin on Sundays.",
        ),
        (
            "Please approve the production change.",
            "The change to production needs your approval.",
            "Bananas are rich in potassium.",
        ),
    ] {
        let v = embed(&model, &[text, same, other]);
        let (near, far) = (cosine(&v[0], &v[1]), cosine(&v[0], &v[2]));
        assert!(near > 0.45, "{text} | {same}: {near}");
        assert!(far < 0.2, "{text} | {other}: {far}");
    }
}

#[test]
#[ignore = "needs the model's files: make live"]
fn every_vector_has_384_numbers_and_length_one_whatever_the_text() {
    let model = load();
    let long = "a very long report ".repeat(2_000);
    let texts = ["", " ", "x", "Ünïcödé 漢字 🚀", long.as_str()];
    for (vector, text) in embed(&model, &texts).iter().zip(texts) {
        assert_eq!(vector.len(), model.dimensions());
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-4, "{}", text.len());
    }
    assert_eq!(embed(&model, &[]), Vec::<Vec<f32>>::new());
}

#[test]
#[ignore = "needs the model's files: make live"]
fn a_text_means_the_same_alone_and_in_a_batch() {
    let model = load();
    let texts: Vec<String> = (0..40)
        .map(|i| format!("Step {i} of run {} ended. {}", i * 7, "More words. ".repeat(i % 5)))
        .collect();
    let together = model.embed(&texts).unwrap();
    assert_eq!(together.len(), texts.len());
    for (text, vector) in texts.iter().zip(&together) {
        let alone = &model.embed(std::slice::from_ref(text)).unwrap()[0];
        // The int8 model scales its activations per run, so a neighbour in the batch shifts the last digits.
        assert!(cosine(alone, vector) > 0.98, "{text}: {}", cosine(alone, vector));
    }
}

#[test]
#[ignore = "needs the model's files: make live"]
fn many_threads_may_load_and_use_models_at_once() {
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(embed(&load(), &["hello"]).len(), 1));
        }
    });
}
