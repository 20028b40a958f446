//! A file of streaming SQL as the statements of Flink SQL that compute the same: Kafka tables with watermarks, views, and one
//! statement set that writes every result. Windows become window table functions. Submits nothing; the CLI does.

use std::collections::BTreeMap;

use kernel::ConfigFault;

use super::avro::{self, Field, Unit};
use super::columns::{count, instant, shown_as, with};
use super::expr::{self, Kind, Scope, literal, quoted};
use super::joins::{self, Rows};
use super::shape::{self, Shape};
use super::support::LOOKUP_ON_FLINK;
use super::windows::{TIME, rows};
use crate::streaming::Declared;
use crate::streaming::dialect::{self, File, Insert, Table, at};
use crate::streaming::options::Role;

/// When a record was seen, for duplicates.
const SEEN: &str = "soma_seen";
/// The key of a result record.
const KEY: &str = "soma_key";

/// Where Flink finds what the text names, and how the job is to run.
#[derive(Clone, Debug)]
pub struct Flink<'a> {
    /// Name of the job, `<pipeline>.<stage>`; its consumer group and transactions begin with it.
    pub job: &'a str,
    /// Kafka's addresses, as the cluster reaches them.
    pub brokers: &'a str,
    /// The schema registry's, likewise.
    pub registry: &'a str,
    /// How many slots it takes.
    pub parallelism: u32,
    /// Read what is in the topics now, close every window, and end; else read on for ever.
    pub bounded: bool,
    /// Avro JSON of each source topic.
    pub sources: &'a BTreeMap<String, String>,
    /// The result topics with their schemas, as the engine declares them.
    pub results: &'a [Declared],
}

/// What is to be sent, in order, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Statements; the last one starts the job, unless everything was left out.
    pub statements: Vec<String>,
    /// Result tables that this engine does not compute, and why.
    pub left_out: Vec<(String, String)>,
}

/// What a relation has for those who read it.
#[derive(Clone, Default)]
struct Columns(BTreeMap<String, Kind>);

impl Flink<'_> {
    /// Renders a file.
    ///
    /// # Errors
    /// What is wrong with the text, as [`crate::streaming::Program::plan`] says it.
    pub fn render(&self, sql: &str) -> Result<Script, Vec<ConfigFault>> {
        let file = dialect::read(sql)?;
        let mut work = Work {
            flink: self,
            file: &file,
            done: BTreeMap::new(),
            statements: Vec::new(),
            sets: Vec::new(),
        };
        let mut left_out = Vec::new();
        for insert in &file.inserts {
            let before = work.statements.len();
            if let Err(why) = work.insert(insert) {
                work.undo(before);
                left_out.push((insert.into.clone(), format!("{}: {why}", at(insert.at))));
            }
        }
        let mut statements = self.settings(&file);
        if !work.sets.is_empty() {
            statements.append(&mut work.statements);
            statements.push(format!("EXECUTE STATEMENT SET BEGIN\n{};\nEND", work.sets.join(";\n")));
        }
        Ok(Script { statements, left_out })
    }

    fn settings(&self, file: &File) -> Vec<String> {
        let mut settings = vec![
            ("pipeline.name", self.job.to_owned()),
            ("execution.runtime-mode", "streaming".to_owned()),
            ("parallelism.default", self.parallelism.to_string()),
            ("table.local-time-zone", "UTC".to_owned()),
            // Results become visible with a checkpoint, as ours do with a commit.
            ("execution.checkpointing.interval", "10 s".to_owned()),
        ];
        if let Some(ms) = remembered_ms(file) {
            settings.push(("table.exec.state.ttl", format!("{ms} ms")));
        }
        settings
            .into_iter()
            .map(|(name, value)| format!("SET {} = {}", literal(name), literal(&value)))
            .collect()
    }
}

/// How long a duplicate's id is remembered: twice the time in which it may come without being late. Flink counts in its own clock,
/// which event time does not outrun but when it catches up, and then the clock is the slower one.
fn remembered_ms(file: &File) -> Option<i64> {
    let queries = file.inserts.iter().map(|i| &i.query).chain(file.views.values());
    let widest = queries.map(joins::width).max().unwrap_or_default();
    let tables = file.tables.values().filter(|t| t.options.unique.is_some());
    let each = |t: &Table| {
        t.options.lateness.unwrap_or(3_600_000_000) + widest + t.watermark.as_ref().map_or(0, |(_, delay)| *delay)
    };
    tables.map(each).max().map(|micros| micros * 2 / 1000)
}

struct Work<'a> {
    flink: &'a Flink<'a>,
    file: &'a File,
    /// Tables and views that were made, or why they cannot be.
    done: BTreeMap<String, Result<Columns, String>>,
    statements: Vec<String>,
    sets: Vec<String>,
}

type Did<T> = Result<T, String>;

impl Work<'_> {
    /// Forgets relations that only a result that is left out has asked for.
    fn undo(&mut self, before: usize) {
        let gone: Vec<String> = self.statements.drain(before..).collect();
        self.done.retain(|name, made| {
            made.is_err()
                || !gone
                    .iter()
                    .any(|s| s.starts_with(&format!("CREATE TEMPORARY VIEW {} ", quoted(name))))
        });
    }

    fn relation(&mut self, name: &str, depth: usize) -> Did<Columns> {
        if let Some(made) = self.done.get(name) {
            return made.clone();
        }
        let made = match (self.file.tables.get(name), self.file.views.get(name)) {
            _ if depth > 16 => Err("views are nested more than 16 deep".to_owned()),
            (Some(table), _) => self.source(table),
            (None, Some(query)) => self.view(name, &shape::of(query)?, depth),
            (None, None) => Err(format!("`{name}` is not declared")),
        };
        self.done.insert(name.to_owned(), made.clone());
        made
    }

    /// The topic as it is, and over it a view with the types the file declares, each id once.
    fn source(&mut self, table: &Table) -> Did<Columns> {
        let options = &table.options;
        match options.role {
            Role::Source => {}
            Role::Lookup => return Err(format!("`{}` is a lookup: {LOOKUP_ON_FLINK}", table.name)),
            Role::Sink => return Err(format!("`{}` is a sink, not a stream", table.name)),
        }
        let Some(json) = self.flink.sources.get(&options.topic) else {
            return Err(format!("the schema of topic {} is not known", options.topic));
        };
        let Some((time, delay)) = &table.watermark else {
            return Err(format!("`{}` has no WATERMARK FOR a column", table.name));
        };
        let taken =
            |name: &str| table.columns.is_empty() || name == time || table.columns.iter().any(|c| c.name == name);
        let known = avro::some(json, &taken)?;
        let field = |name: &str| {
            known
                .iter()
                .find(|f| f.name == name)
                .ok_or_else(|| format!("topic {} has no field `{name}`", options.topic))
        };
        let time = field(time)?;
        let Some(unit) = time.time else {
            return Err(format!(
                "field `{}` of topic {} is not a time",
                time.name, options.topic
            ));
        };
        let mut wanted: Vec<Field> = Vec::new();
        let (mut shown, mut columns) = (Vec::new(), BTreeMap::new());
        for column in &table.columns {
            let field = field(&column.name)?;
            wanted.push(field.clone());
            shown.push(format!("{} AS {}", shown_as(field, column)?, quoted(&column.name)));
            columns.insert(column.name.clone(), expr::kind(&column.kind)?.1);
        }
        if table.columns.is_empty() {
            for field in &known {
                wanted.push(field.clone());
                let text = field
                    .time
                    .map_or_else(|| quoted(&field.name), |unit| instant(&quoted(&field.name), unit));
                shown.push(format!("{text} AS {}", quoted(&field.name)));
                columns.insert(field.name.clone(), field.numeric());
            }
        }
        let log = quoted(&format!("{}__log", table.name));
        let mut parts: Vec<String> = wanted.iter().map(Field::column).collect();
        parts.push(format!("{} AS {}", quoted(TIME), instant(&quoted(&time.name), unit)));
        if options.unique.is_some() {
            parts.push(format!("{} AS PROCTIME()", quoted(SEEN)));
        }
        parts.push(format!(
            "WATERMARK FOR {0} AS {0} - {1}",
            quoted(TIME),
            expr::interval(*delay)?
        ));
        self.statements.push(format!(
            "CREATE TEMPORARY TABLE {log} (\n  {}\n) WITH (\n  {}\n)",
            parts.join(",\n  "),
            self.source_options(table)
        ));
        shown.push(quoted(TIME));
        let from = match &options.unique {
            Some(id) => format!(
                "(SELECT *, ROW_NUMBER() OVER (PARTITION BY {} ORDER BY {} ASC) AS `soma_nth` FROM {log}) WHERE `soma_nth` = 1",
                quoted(id),
                quoted(SEEN)
            ),
            None => log,
        };
        self.statements.push(format!(
            "CREATE TEMPORARY VIEW {} AS SELECT\n  {}\nFROM {from}",
            quoted(&table.name),
            shown.join(",\n  ")
        ));
        Ok(Columns(columns))
    }

    fn source_options(&self, table: &Table) -> String {
        let mut options = vec![
            ("connector", "kafka".to_owned()),
            ("topic", table.options.topic.clone()),
            ("properties.bootstrap.servers", self.flink.brokers.to_owned()),
            ("properties.group.id", format!("{}.flink", self.flink.job)),
            ("properties.isolation.level", "read_committed".to_owned()),
            ("scan.startup.mode", "earliest-offset".to_owned()),
            ("format", "avro-confluent".to_owned()),
            ("avro-confluent.url", self.flink.registry.to_owned()),
        ];
        if self.flink.bounded {
            options.push(("scan.bounded.mode", "latest-offset".to_owned()));
        } else {
            options.push((
                "scan.watermark.idle-timeout",
                format!("{} ms", table.options.idle.unwrap_or(10_000_000) / 1000),
            ));
        }
        with(&options)
    }

    /// A view without a window: its own columns and the event time.
    fn view(&mut self, name: &str, shape: &Shape<'_>, depth: usize) -> Did<Columns> {
        if shape.window.is_some() || !shape.keys.is_empty() {
            return Err(format!(
                "view `{name}` aggregates; put the window into the INSERT's SELECT"
            ));
        }
        let scope = Scope {
            kinds: self.relation(&shape.from, depth + 1)?.0,
            ..Scope::default()
        };
        let mut columns = if shape.all {
            scope.kinds.clone()
        } else {
            BTreeMap::new()
        };
        let mut parts = if shape.all { vec!["*".to_owned()] } else { Vec::new() };
        for item in &shape.items {
            let Some(named) = &item.name else {
                return Err(format!(
                    "`{}` in view `{name}` has no name; give it one with AS",
                    item.expr
                ));
            };
            parts.push(format!("{} AS {}", expr::text(item.expr, &scope)?, quoted(named)));
            columns.insert(named.clone(), expr::kind_of(item.expr, &scope));
        }
        if !shape.all {
            parts.push(quoted(TIME));
        }
        let filter = shape
            .filter
            .map(|f| expr::text(f, &scope))
            .transpose()?
            .map(|f| format!(" WHERE {f}"))
            .unwrap_or_default();
        self.statements.push(format!(
            "CREATE TEMPORARY VIEW {} AS SELECT {} FROM {}{filter}",
            quoted(name),
            parts.join(", "),
            quoted(&shape.from)
        ));
        Ok(Columns(columns))
    }

    /// The rows of a result, over one relation or over a join of two.
    fn rows(&mut self, insert: &Insert) -> Did<Rows> {
        if joins::has_join(&insert.query) {
            let file = self.file;
            return joins::rows(&insert.query, file, &mut |name| Ok(self.relation(name, 0)?.0));
        }
        let shape = shape::of(&insert.query)?;
        let Some(window) = shape.window else {
            return Err("it has no window".to_owned());
        };
        let mut scope = Scope {
            kinds: self.relation(&shape.from, 0)?.0,
            ..Scope::default()
        };
        let from = self.input(&insert.into, &shape, &mut scope)?;
        Ok(Rows {
            text: rows(&shape, window, &scope, &from)?,
            keys: shape.keys.len(),
            items: shape.items.len(),
        })
    }

    fn insert(&mut self, insert: &Insert) -> Did<()> {
        let Some(table) = self
            .file
            .tables
            .get(&insert.into)
            .filter(|t| t.options.role == Role::Sink)
        else {
            return Err(format!("`{}` is no declared sink", insert.into));
        };
        let Some(declared) = self.flink.results.iter().find(|d| d.topic == table.options.topic) else {
            return Err(format!(
                "the schema of result topic {} is not known",
                table.options.topic
            ));
        };
        let rows = self.rows(insert)?;
        let fields = avro::fields(&declared.avro_json)?;
        let own = fields
            .iter()
            .filter(|f| !["window_start", "window_end", "revision", "deleted"].contains(&f.name.as_str()));
        let own: Vec<&Field> = own.collect();
        if own.len() != rows.items {
            return Err(format!(
                "the SELECT has {} columns beside its window, the result's schema {}",
                rows.items,
                own.len()
            ));
        }
        let sink = self.sink(table, declared, &fields)?;
        self.statements.push(sink);
        let keys = (0..rows.keys)
            .map(|i| format!("REPLACE(REPLACE(CAST(`soma_key_{i}` AS STRING), '\\', '\\\\'), '|', '\\|')"));
        let start = "DATE_FORMAT(`soma_start`, 'yyyy-MM-dd''T''HH:mm:ss.SSS''000Z''')".to_owned();
        let key = keys.chain([start]).collect::<Vec<_>>().join(", ");
        let values = own.iter().enumerate().map(|(i, field)| match field.time {
            Some(unit) => count(&format!("`soma_{i}`"), unit),
            None => format!("CAST(`soma_{i}` AS {})", field.kind),
        });
        let all: Vec<String> = [
            format!("CONCAT_WS('|', {key})"),
            count("`soma_start`", Unit::Micros),
            count("`soma_end`", Unit::Micros),
        ]
        .into_iter()
        .chain(values)
        .chain(["0".to_owned(), "FALSE".to_owned()])
        .collect();
        self.sets.push(format!(
            "INSERT INTO {} SELECT\n  {}\nFROM ({})",
            quoted(&insert.into),
            all.join(",\n  "),
            rows.text
        ));
        Ok(())
    }

    /// What the window function reads: the relation itself, or a view that filters it and computes the keys. A session must not see
    /// rows that the WHERE takes out.
    fn input<'q>(&mut self, into: &str, shape: &Shape<'q>, scope: &mut Scope<'q>) -> Did<String> {
        let computed: Vec<_> = shape
            .keys
            .iter()
            .enumerate()
            .filter(|(_, key)| shape::column(key).is_none())
            .collect();
        if computed.is_empty() && shape.filter.is_none() {
            return Ok(shape.from.clone());
        }
        let mut parts = vec!["*".to_owned()];
        let mut known = Vec::new();
        for (i, key) in computed {
            let column = format!("soma_by_{i}");
            parts.push(format!("{} AS {}", expr::text(key, scope)?, quoted(&column)));
            known.push((*key, column));
        }
        let filter = shape
            .filter
            .map(|f| expr::text(f, scope))
            .transpose()?
            .map(|f| format!(" WHERE {f}"))
            .unwrap_or_default();
        scope.known = known;
        let view = format!("{into}__in");
        self.statements.push(format!(
            "CREATE TEMPORARY VIEW {} AS SELECT {} FROM {}{filter}",
            quoted(&view),
            parts.join(", "),
            quoted(&shape.from)
        ));
        Ok(view)
    }

    fn sink(&self, table: &Table, declared: &Declared, fields: &[Field]) -> Did<String> {
        let columns = fields.iter().map(Field::column).collect::<Vec<_>>().join(",\n  ");
        let options = with(&[
            ("connector", "kafka".to_owned()),
            ("topic", table.options.topic.clone()),
            ("properties.bootstrap.servers", self.flink.brokers.to_owned()),
            ("properties.transaction.timeout.ms", "600000".to_owned()),
            ("sink.delivery-guarantee", "exactly-once".to_owned()),
            (
                "sink.transactional-id-prefix",
                format!("{}.flink.{}", self.flink.job, table.name),
            ),
            ("key.format", "raw".to_owned()),
            ("key.fields", KEY.to_owned()),
            ("value.fields-include", "EXCEPT_KEY".to_owned()),
            ("value.format", "avro-confluent".to_owned()),
            ("value.avro-confluent.url", self.flink.registry.to_owned()),
            ("value.avro-confluent.subject", declared.subject.clone()),
            ("value.avro-confluent.schema", avro::plain(&declared.avro_json)?),
        ]);
        Ok(format!(
            "CREATE TEMPORARY TABLE {} (\n  {} STRING NOT NULL,\n  {columns}\n) WITH (\n  {options}\n)",
            quoted(&table.name),
            quoted(KEY)
        ))
    }
}
