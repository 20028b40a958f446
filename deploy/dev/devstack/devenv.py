"""dev.env: every address and credential of the running stack, as KEY=value lines that programs read."""
from pathlib import Path

from . import layout, terraform
from .base import make_dir, write_private
from .parts import CLICKHOUSE, RECEIVER, REGISTRY

_HTTP = "http://127.0.0.1:{}".format


def _of_parts(home):
    """Part name -> the keys that belong to it."""
    port = home.port
    return {
        "kafka": lambda: {"SOMA_KAFKA_BROKERS": "127.0.0.1:{}".format(port("kafka"))},
        "schema-registry": lambda: {"SOMA_REGISTRY_URL": REGISTRY.url(home)},
        "redis": lambda: {"SOMA_REDIS_URL": "redis://default:{}@127.0.0.1:{}/0".format(home.secret("redis"), port("redis"))},
        "clickhouse": lambda: {
            "SOMA_CLICKHOUSE_URL": _HTTP(port("clickhouse")), "SOMA_CLICKHOUSE_USER": CLICKHOUSE.user,
            "SOMA_CLICKHOUSE_PASSWORD": home.secret("clickhouse"), "SOMA_CLICKHOUSE_DATABASE": CLICKHOUSE.database},
        "qdrant": lambda: {"SOMA_QDRANT_URL": _HTTP(port("qdrant")), "SOMA_QDRANT_API_KEY": home.secret("qdrant")},
        "pushgateway": lambda: {"SOMA_PUSHGATEWAY_URL": _HTTP(port("pushgateway"))},
        "prometheus": lambda: {"SOMA_PROMETHEUS_URL": _HTTP(port("prometheus"))},
        # Extra programs that deploy/dev/flink.py starts.
        "flink-gateway": lambda: {"SOMA_FLINK_URL": _HTTP(port("flink-gateway"))},
        "flink-jobmanager": lambda: {"SOMA_FLINK_REST_URL": _HTTP(port("flink-rest"))},
        "receiver": lambda: {"SOMA_RECEIVER_URL": _HTTP(port("receiver")), "SOMA_RECEIVER_LOG": str(RECEIVER.access_log(home))},
    }


def _of_all(home):
    """Keys that need no server. What setup has not fetched (a partial stack) is left out, not pointed at nothing."""
    # Two partitions keep two cores busy; each one more costs a produce request per topic and transaction.
    values = {"SOMA_PARTITIONS": "2", "SOMA_ADMIN_PORT": str(home.port("admin")),
              "SOMA_VERDICT_KEY_FILE": str(home.secret_file("verdict.key")), "SOMA_AUDIT_KEY_FILE": str(home.secret_file("audit.key")),
              "SOMA_AUDIT_KEYS_DIR": str(make_dir(home.path / "secrets" / "tenants", 0o700)), "SOMA_CONSTITUTION_SIGNERS_FILE": str(home.kept_file("constitution-signers.yaml", "{}\n")),
              "SOMA_WORKSPACES": str(make_dir(home.path / "data" / "workspaces"))}
    files = {"SOMA_TERRAFORM": terraform.find(home.cache), "ORT_DYLIB_PATH": layout.onnxruntime(home.cache),
             "SOMA_MODEL_PATH": layout.minilm(home.cache), "SOMA_TOKENIZER_PATH": layout.tokenizer(home.cache)}
    live_python = layout.live_python(home.cache)
    if live_python:
        files["SOMA_LIVE_PYTHON"] = live_python
    for key, path in files.items():
        if path and Path(path).exists():
            values[key] = str(path)
    return values


def values(home):
    """All keys of the parts that this home has started."""
    found = {}
    for part, keys in _of_parts(home).items():
        if home.record(part):
            found.update(keys())
    found.update(_of_all(home))
    return found


def write(home):
    """Writes DIR/dev.env (mode 0600: it holds passwords) and returns its path."""
    path = home.path / "dev.env"
    write_private(path, "".join("{}={}\n".format(key, value) for key, value in values(home).items()))
    return path


def read(home):
    """The keys of DIR/dev.env as last written."""
    path = home.path / "dev.env"
    if not path.exists():
        return {}
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
