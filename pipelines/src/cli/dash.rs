//! `soma dash`: the boards' panels in the terminal, as static pages, and as what Grafana and Prometheus are given.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use sinks::clickhouse::Reader;

use super::context::{self, Context};
use super::failure::{Done, FAILED, Failure, OK};
use super::{out, sql, when};
use crate::apply;
use crate::dash::{self, Answer, Asker, Board, Objectives, Span};

/// Draws the boards.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  soma dash                        the platform overview of the last hour
  soma dash governance --since 6h
  soma dash --html boards/         every board as a page that needs no server
  soma dash tools --json | jq '.[0].panels[].title'

Boards: overview, runs, governance, tools, cost, memory, pipelines. Panels are files under pipelines/analytics/dashboards.
Exit code: 0 every panel was answered, 1 one was not, 3 ClickHouse does not answer.")]
pub(super) struct Args {
    /// The board; the overview when left out
    board: Option<String>,
    /// How far back: 30m, 6h, 7d, or a time
    #[arg(long, default_value = "1h", value_name = "WHEN")]
    since: String,
    /// Write every board as a static page into a folder
    #[arg(long, value_name = "DIR")]
    html: Option<PathBuf>,
    /// Write deploy/grafana and deploy/prometheus/rules/objectives.yml anew from their sources
    #[arg(long, conflicts_with_all = ["board", "html"])]
    generate: bool,
}

pub(super) fn run(args: &Args, cx: &Context) -> Done {
    let dir = apply::pipelines_dir().ok_or_else(|| {
        let help = "run it inside a checkout, where pipelines/analytics/dashboards is";
        Failure::input("BOARDS_MISSING", "no pipelines folder from here upwards", help)
    })?;
    let unreadable = |e: String| Failure::input("BOARDS_UNREADABLE", e, "mend the files that are named");
    let boards = dash::load(&dir.join("analytics/dashboards")).map_err(unreadable)?;
    if args.generate {
        return generate(&boards, dir.parent().unwrap_or(&dir));
    }
    let asked = chosen(args, boards)?;
    let now = context::now();
    let from =
        when::instant(&args.since, now).map_err(|e| Failure::input("TIME_INVALID", e, "for example --since 6h"))?;
    let span = Span {
        from_s: from.0 / 1_000_000,
        to_s: now.0 / 1_000_000 + 1,
    };
    let reader = Reader::new(&sql::config(cx)?)?;
    cx.runtime()?.block_on(reader.probe())?;
    let asker = Asker::new(reader, &cx.variable("SOMA_PROMETHEUS_URL")?).map_err(|e| {
        Failure::failed(
            "CLIENT_UNUSABLE",
            e,
            "is the configuration of TLS on this machine sound?",
        )
    })?;
    let answers = ask_all(&asked, &asker, span, cx)?;
    let silent = asked
        .iter()
        .zip(&answers)
        .flat_map(|(b, all)| b.panels.iter().zip(all).filter(|(_, a)| a.is_err()));
    let silent = silent.count();
    match &args.html {
        Some(folder) => write_pages(&asked, &answers, span, folder)?,
        None if cx.json => out::json(&as_json(&asked, &answers))?,
        None => asked
            .iter()
            .zip(&answers)
            .try_for_each(|(board, all)| show(board, all, span))?,
    }
    Ok(if silent == 0 { OK } else { FAILED })
}

type Answers = Vec<Vec<Result<Answer, String>>>;

fn chosen(args: &Args, boards: Vec<Board>) -> Result<Vec<Board>, Failure> {
    let wanted = match (&args.board, &args.html) {
        (None, Some(_)) => return Ok(boards),
        (board, _) => board.as_deref().unwrap_or("overview"),
    };
    let names: Vec<_> = boards.iter().map(|b| b.name).collect();
    let help = format!("boards: {}", names.join(", "));
    let found: Vec<_> = boards.into_iter().filter(|b| b.name == wanted).collect();
    if found.is_empty() {
        return Err(Failure::input(
            "BOARD_UNKNOWN",
            format!("there is no board `{wanted}`"),
            help,
        ));
    }
    Ok(found)
}

fn ask_all(boards: &[Board], asker: &Asker, span: Span, cx: &Context) -> Result<Answers, Failure> {
    let runtime = cx.runtime()?;
    let all = boards.iter().map(|board| {
        let each = board
            .panels
            .iter()
            .map(|panel| runtime.block_on(asker.ask(panel, span)));
        each.collect()
    });
    Ok(all.collect())
}

fn show(board: &Board, answers: &[Result<Answer, String>], span: Span) -> Result<(), Failure> {
    out::line(out::paint(out::BOLD, board.title))?;
    for (panel, answer) in board.panels.iter().zip(answers) {
        out::line("")?;
        let unit = if panel.unit.is_empty() {
            String::new()
        } else {
            format!(" ({})", panel.unit)
        };
        out::line(format!(
            "{}{}",
            out::paint(out::CYAN, &panel.title),
            out::paint(out::DIM, &unit)
        ))?;
        match answer {
            Ok(answer) => {
                for line in dash::draw(panel, answer, span, 110) {
                    out::line(format!("  {line}"))?;
                }
            }
            Err(e) => out::line(format!("  {}", out::paint(out::RED, e)))?,
        }
    }
    Ok(())
}

fn as_json(boards: &[Board], answers: &Answers) -> Json {
    let panel = |(panel, answer): (&dash::Panel, &Result<Answer, String>)| match answer {
        Ok(answer) => {
            json!({"name": panel.name, "title": panel.title, "unit": panel.unit, "columns": answer.columns, "rows": answer.rows})
        }
        Err(e) => json!({"name": panel.name, "title": panel.title, "unit": panel.unit, "error": e}),
    };
    let board = |(board, all): (&Board, &Vec<_>)| {
        let panels: Vec<_> = board.panels.iter().zip(all).map(panel).collect();
        json!({"board": board.name, "title": board.title, "panels": panels})
    };
    Json::Array(boards.iter().zip(answers).map(board).collect())
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let made = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(file, text)).map_err(|e| {
        Failure::failed(
            "OUTPUT_UNWRITABLE",
            format!("{}: {e}", file.display()),
            "may this user write there?",
        )
    })?;
    out::note(file.display().to_string());
    Ok(())
}

fn write_pages(boards: &[Board], answers: &Answers, span: Span, folder: &Path) -> Result<(), Failure> {
    for (board, all) in boards.iter().zip(answers) {
        write(
            &folder.join(format!("{}.html", board.name)),
            &dash::page(board, all, span),
        )?;
    }
    write(&folder.join("index.html"), &dash::index(boards))
}

fn generate(boards: &[Board], root: &Path) -> Done {
    for (name, text) in dash::dashboards(boards) {
        write(&root.join(format!("deploy/grafana/{name}.json")), &text)?;
    }
    let file = root.join("deploy/prometheus/objectives.yaml");
    let unreadable = |e| Failure::input("OBJECTIVES_UNREADABLE", e, "mend the file");
    let objectives = Objectives::load(&file).map_err(unreadable)?;
    write(
        &root.join("deploy/prometheus/rules/objectives.yml"),
        &dash::rules(&objectives),
    )?;
    Ok(OK)
}
