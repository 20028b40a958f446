//! A real nginx for the live tests: its own configuration, port, folder and access log; stopped with the test.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CONFIG: &str = r#"
user root; daemon off; worker_processes 1; pid DIR/nginx.pid; error_log DIR/error.log;
events { worker_connections 256; }
http {
  log_format seen '$request_method $uri $status $http_idempotency_key $http_soma_tenant $http_soma_run $http_traceparent';
  access_log DIR/access.log seen;
  client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fastcgi; uwsgi_temp_path DIR/uwsgi; scgi_temp_path DIR/scgi;
  server {
    listen 127.0.0.1:PORT;
    root DIR/files;
    location /json { default_type application/json; return 200 '{"status":"ok","items":[1,2]}'; }
    location /echo { default_type application/json; return 200 '{"authorization":"$http_authorization","key":"$http_x_api_key","query":"$args"}'; }
    location /broken { return 503 'out of order, you sent $http_x_api_key'; }
    location /gone { return 444; }
    location /slow { limit_rate 10; }
    location /here { return 302 /json; }
    location /away { return 302 http://localhost:PORT/echo; }
    location /dav/ { dav_methods PUT DELETE; create_full_put_path on; }
    location /hook { return 204; }
  }
}
"#;

/// A running nginx.
pub(crate) struct Nginx {
    child: Child,
    dir: PathBuf,
    pub(crate) port: u16,
}

impl Nginx {
    pub(crate) fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("soma-nginx-{}-{name}", std::process::id()));
        std::fs::create_dir_all(dir.join("files")).unwrap();
        std::fs::write(dir.join("files/slow"), "x".repeat(100_000)).unwrap();
        let port = free_port();
        let config = CONFIG
            .replace("DIR", &dir.to_string_lossy())
            .replace("PORT", &port.to_string());
        std::fs::write(dir.join("nginx.conf"), config).unwrap();
        let child = Command::new("nginx")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
            .arg("-p")
            .arg(&dir)
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .arg("-e")
            .arg(dir.join("error.log"))
            .stdin(Stdio::null())
            .spawn()
            .expect("the live tests need nginx: apt-get install -y nginx-light");
        let mut nginx = Self { child, dir, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = nginx.child.try_wait().unwrap().is_some();
            let log = || std::fs::read_to_string(nginx.dir.join("error.log")).unwrap_or_default();
            assert!(!ended && Instant::now() < deadline, "nginx does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        nginx
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Lines of the access log about `path`. nginx writes a line once it has answered.
    pub(crate) fn seen(&self, path: &str) -> Vec<String> {
        std::thread::sleep(Duration::from_millis(100));
        let log = std::fs::read_to_string(self.dir.join("access.log")).unwrap();
        log.lines()
            .filter(|l| l.split(' ').nth(1) == Some(path))
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn file(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.join("files").join(path)).ok()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM lets the master take its worker along.
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.child.wait().ok();
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// A port nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
