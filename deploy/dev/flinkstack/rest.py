"""Clients of the cluster's REST API and of the SQL gateway's: http.client and JSON, nothing more."""
import json
import time
import urllib.error
import urllib.request

from devstack.base import StackError

# Of a job that will not change any more.
ENDED = ("FINISHED", "FAILED", "CANCELED")


def call(url, method="GET", body=None, timeout_s=60):
    """One request and its JSON answer. An answer that is not 2xx is an error with Flink's own words."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        raise StackError("{} {} answers {}: {}".format(method, url, error.code, root_cause(error.read().decode("utf-8", "replace")))) from error
    except OSError as error:
        raise StackError("{} does not answer: {}".format(url, error), "`stack.py status` shows the cluster's processes") from error


def root_cause(text):
    """The lines of a Java stack trace that say what was wrong."""
    try:
        text = "\n".join(json.loads(text).get("errors", [text]))
    except ValueError:
        pass
    said = [line for line in text.splitlines() if line.strip() and not line.startswith(("\tat ", "\t... "))]
    causes = [n for n, line in enumerate(said) if line.startswith("Caused by:")]
    return "\n".join(said[causes[-1]:] if causes else said[:3])[:2000]


def await_slots(rest, slots, seconds=60):
    """Until so many slots have registered."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seen = call(rest + "/overview")["slots-total"]
        if seen >= slots:
            return
        time.sleep(0.2)
    raise StackError("{} of {} slots registered within {} s".format(seen, slots, seconds), "see the logs of the flink-taskmanager processes")


class Session:
    """A session of the SQL gateway: statements one after the other, each waited for."""

    def __init__(self, gateway, properties=None):
        self.gateway = gateway
        handle = call(gateway + "/v1/sessions", "POST", {"properties": properties or {}})["sessionHandle"]
        self.url = "{}/v1/sessions/{}".format(gateway, handle)

    def run(self, statement, seconds=120):
        """Executes one statement; the rows it answers, or the id of the job it started."""
        handle = call(self.url + "/statements", "POST", {"statement": statement})["operationHandle"]
        operation = "{}/operations/{}".format(self.url, handle)
        end = time.monotonic() + seconds
        pause = 0.02
        while True:
            status = call(operation + "/status")["status"]
            if status in ("FINISHED", "ERROR", "CANCELED", "TIMEOUT", "CLOSED"):
                break
            if time.monotonic() > end:
                raise StackError("{} still {} after {} s".format(statement[:80], status, seconds))
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        answer = call(operation + "/result/0?rowFormat=JSON")
        rows = [row["fields"] for row in answer.get("results", {}).get("data", [])]
        return answer.get("jobID"), rows

    def close(self):
        call(self.url, "DELETE")


def await_job(rest, job, seconds, states=ENDED):
    """Until the job is in one of the states; which one. A failure is an error with the exception's root."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = call("{}/jobs/{}".format(rest, job))["state"]
        if state == "FAILED":
            text = call("{}/jobs/{}/exceptions".format(rest, job)).get("exceptionHistory", {}).get("entries", [])
            raise StackError("job {} failed: {}".format(job, root_cause(text[0]["stacktrace"]) if text else "no exception was kept"))
        if state in states:
            return state
        time.sleep(0.2)
    raise StackError("job {} is {} after {} s".format(job, state, seconds), "see the logs of the flink processes")
