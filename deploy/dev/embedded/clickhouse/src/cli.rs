//! The command line. Every fault names its flag and what to do about it.

use std::net::SocketAddr;
use std::path::PathBuf;

pub const USAGE: &str = "\
soma-dev-clickhouse: ClickHouse's HTTP interface over chDB, for development machines.

  --listen 127.0.0.1:8123     address and port
  --path DIR                  where the data is kept; made if missing
  --lib FILE                  libchdb.so (npm @chdb/lib-linux-x64-gnu 26.7.3-stable.1)
  --user NAME                 the one user
  --password-file FILE        its password, on the first line
  --max-memory-mb N           cap of the engine; one statement gets three quarters (default 1500)
";

pub struct Options {
    pub listen: SocketAddr,
    pub path: PathBuf,
    pub lib: PathBuf,
    pub user: String,
    pub password: String,
    pub memory_mb: u64,
}

/// `Ok(None)`: help was asked for.
pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut values: [(&str, Option<String>); 6] = [
        "--listen",
        "--path",
        "--lib",
        "--user",
        "--password-file",
        "--max-memory-mb",
    ]
    .map(|flag| (flag, None));
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        if matches!(argument.as_str(), "-h" | "--help") {
            return Ok(None);
        }
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let slot = values.iter_mut().find(|(flag, _)| *flag == name);
        let slot = slot.ok_or_else(|| format!("{name} is not a flag; see --help"))?;
        slot.1 = Some(
            inline
                .or_else(|| arguments.next())
                .ok_or_else(|| format!("{name} needs a value; see --help"))?,
        );
    }
    let [listen, path, lib, user, password_file, memory] = values.map(|(flag, value)| (flag, value));
    let needed = |(flag, value): (&str, Option<String>)| value.ok_or_else(|| format!("{flag} is missing; see --help"));
    let listen = needed(listen)?;
    let listen = listen
        .parse()
        .map_err(|_| format!("--listen {listen} is not ADDRESS:PORT, like 127.0.0.1:8123"))?;
    let memory = memory.1.unwrap_or_else(|| "1500".to_owned());
    let memory_mb = memory.parse().ok().filter(|mb| *mb >= 256);
    let memory_mb = memory_mb.ok_or_else(|| format!("--max-memory-mb {memory} is not a number of at least 256"))?;
    Ok(Some(Options {
        listen,
        path: needed(path)?.into(),
        lib: needed(lib)?.into(),
        user: needed(user)?,
        password: read_password(&needed(password_file)?)?,
        memory_mb,
    }))
}

fn read_password(file: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| format!("--password-file {file} cannot be read ({e}); write the password into it"))?;
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(password) => Ok(password.to_owned()),
        None => Err(format!(
            "--password-file {file} is empty; write the password on its first line"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn fault(line: &str) -> String {
        match parse(line.split_whitespace().map(str::to_owned)) {
            Err(fault) => fault,
            Ok(_) => panic!("{line} was taken"),
        }
    }

    #[test]
    fn faults_name_their_flag() {
        assert!(fault("--listen").contains("--listen needs a value"));
        assert!(fault("--port 1").contains("--port is not a flag"));
        assert!(fault("--listen nowhere").contains("--listen nowhere"));
        assert!(fault("--listen 127.0.0.1:1 --max-memory-mb 3").contains("--max-memory-mb 3"));
        assert!(fault("--listen 127.0.0.1:1").contains("--path is missing"));
    }
}
