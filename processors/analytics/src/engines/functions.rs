//! The functions of the dialect and what Flink calls them. What is not listed is not rendered: a name that means something else
//! there would give other numbers without a word.

use super::expr::Kind;

/// How a call is written for Flink.
pub(super) enum Form {
    /// The same, under this name.
    Name(&'static str),
    /// This text, with `{0}`, `{1}` for the arguments.
    Text(&'static str),
    /// There is no such thing there; why.
    None(&'static str),
}

use Form::{Name, None as Not, Text};

/// Aggregates, then scalars. Sums and averages depend on their argument's kind: [`aggregate`].
const FUNCTIONS: &[(&str, Form)] = &[
    ("count", Name("COUNT")),
    ("min", Name("MIN")),
    ("max", Name("MAX")),
    // Flink's own of a whole number is a whole number.
    ("avg", Text("AVG({d}CAST({0} AS DOUBLE))")),
    ("mean", Text("AVG({d}CAST({0} AS DOUBLE))")),
    ("stddev", Text("STDDEV_SAMP({d}CAST({0} AS DOUBLE))")),
    ("stddev_samp", Text("STDDEV_SAMP({d}CAST({0} AS DOUBLE))")),
    ("stddev_pop", Text("STDDEV_POP({d}CAST({0} AS DOUBLE))")),
    ("var", Text("VAR_SAMP({d}CAST({0} AS DOUBLE))")),
    ("var_samp", Text("VAR_SAMP({d}CAST({0} AS DOUBLE))")),
    ("var_pop", Text("VAR_POP({d}CAST({0} AS DOUBLE))")),
    // Exact there: every value of a window is kept.
    ("approx_percentile_cont", Text("PERCENTILE({0}, {1})")),
    ("approx_median", Text("PERCENTILE({0}, 0.5)")),
    ("median", Text("PERCENTILE({0}, 0.5)")),
    ("approx_distinct", Text("COUNT(DISTINCT {0})")),
    (
        "first_value",
        Not("which value is first depends on the order records are read in"),
    ),
    (
        "last_value",
        Not("which value is last depends on the order records are read in"),
    ),
    (
        "array_agg",
        Not("the order of its elements depends on the order records are read in"),
    ),
    (
        "string_agg",
        Not("the order of its parts depends on the order records are read in"),
    ),
    ("abs", Name("ABS")),
    ("ceil", Name("CEIL")),
    ("floor", Name("FLOOR")),
    ("round", Name("ROUND")),
    ("sqrt", Name("SQRT")),
    ("exp", Name("EXP")),
    ("ln", Name("LN")),
    ("log10", Name("LOG10")),
    ("log2", Name("LOG2")),
    ("power", Name("POWER")),
    ("pow", Name("POWER")),
    ("sin", Name("SIN")),
    ("cos", Name("COS")),
    ("tan", Name("TAN")),
    ("upper", Name("UPPER")),
    ("lower", Name("LOWER")),
    ("ltrim", Name("LTRIM")),
    ("rtrim", Name("RTRIM")),
    ("trim", Text("TRIM({0})")),
    ("btrim", Text("TRIM({0})")),
    ("length", Name("CHAR_LENGTH")),
    ("char_length", Name("CHAR_LENGTH")),
    ("character_length", Name("CHAR_LENGTH")),
    // A NULL is passed over, as DataFusion does; Flink's CONCAT would give NULL.
    ("concat", Text("CONCAT_WS('', {*})")),
    ("concat_ws", Name("CONCAT_WS")),
    ("coalesce", Name("COALESCE")),
    ("nullif", Name("NULLIF")),
    ("substr", Name("SUBSTRING")),
    ("substring", Name("SUBSTRING")),
    ("replace", Name("REPLACE")),
    ("reverse", Name("REVERSE")),
    ("repeat", Name("REPEAT")),
    ("strpos", Text("POSITION({1} IN {0})")),
    ("split_part", Text("COALESCE(SPLIT_INDEX({0}, {1}, {2} - 1), '')")),
    ("md5", Name("MD5")),
    (
        "regexp_replace",
        Not("it replaces the first match, Flink's replaces every match"),
    ),
    ("sha256", Not("it gives bytes, Flink's gives a text")),
    ("date_bin", Not("put the width into tumble or hop instead")),
    ("now", Not("a result that depends on the clock is not repeatable")),
    ("greatest", Not("it passes NULL over, Flink's gives NULL")),
    ("least", Not("it passes NULL over, Flink's gives NULL")),
];

/// What a call is written as.
pub(super) fn of(name: &str) -> Option<&'static Form> {
    FUNCTIONS.iter().find(|(known, _)| *known == name).map(|(_, form)| form)
}

/// A sum of whole numbers is 64 bits wide here; Flink's is as wide as its argument.
pub(super) fn sum(argument: &str, distinct: &str, kind: Kind) -> String {
    match kind {
        Kind::Whole => format!("SUM({distinct}CAST({argument} AS BIGINT))"),
        Kind::Real => format!("SUM({distinct}CAST({argument} AS DOUBLE))"),
        Kind::Other => format!("SUM({distinct}{argument})"),
    }
}

/// A template with its arguments put in.
pub(super) fn filled(template: &str, arguments: &[String], distinct: &str) -> Result<String, String> {
    let mut text = template.replace("{d}", distinct).replace("{*}", &arguments.join(", "));
    for (i, argument) in arguments.iter().enumerate() {
        text = text.replace(&format!("{{{i}}}"), argument);
    }
    if (0..4).any(|i| text.contains(&format!("{{{i}}}"))) {
        return Err("it has too few arguments".to_owned());
    }
    Ok(text)
}
