"""The figures of `make soak-analytics`: a streaming view with as many open keys as asked for, fed for minutes at half of what it sustains:
whether its memory stays flat, what its open windows take, and whether the last closed window is right.

Started by soak-analytics.sh, which has the servers up. deploy/dev/analytics/README.md says what is measured and how.
"""
import argparse
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

import bench_analytics
from bench_analytics import TOPIC, Ours, results

VIEW = "per_run"
# Where analytics-fill begins, Unix seconds; a record each thousandth of a second from there.
BEGIN_S = 1_767_225_600
HOUR_ROWS = 60 * bench_analytics.A_MINUTE
EVERY_S = 1
# Into so many parts the time is cut for a slope: samples that follow each other are too much alike to be counted one by one.
PARTS = 10
# The first of them do not count: caches and the windows' memory fill.
FILLING = 2
PANELS = (("open_mb", "open windows, MB"), ("rss_mb", "memory of the process, MB"), ("heap_mb", "of it in use on the heap, MB"), ("lag", "records not committed yet"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=0, help="records a second; half of what is sustained otherwise")
    parser.add_argument("--records", type=int, default=8_000_000, help="of which what is sustained is measured")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--core", type=int, default=os.cpu_count() - 1, help="the core the view runs on")
    parser.add_argument("--wait", type=int, default=900)
    parser.add_argument("--slope-max", type=float, default=30.0, help="most that the heap in use may grow, MB an hour")
    parser.add_argument("--picture", default="target/soak-analytics.svg")
    return parser.parse_args()


def fill(options, records, rate=None):
    command = [os.environ["SOMA_BENCH"], "analytics-fill", "--brokers", os.environ["SOMA_KAFKA_BROKERS"], "--registry", os.environ["SOMA_REGISTRY_URL"],
               "--topic", TOPIC, "--records", str(records), "--partitions", str(options.partitions), "--runs", str(options.keys)]
    return subprocess.Popen([*command, "--rate", str(rate)] if rate else command, stdout=subprocess.DEVNULL)


def sustained(options, view):
    """Rows a second from a quarter of a topic to its end."""
    if fill(options, options.records).wait():
        raise RuntimeError("the topic was not filled")
    view.clear()
    process = view.start()
    try:
        first = view.until(process, options.records // 4)
        since = time.monotonic()
        last = view.until(process, options.records)
        return (last - first) / (time.monotonic() - since)
    finally:
        process.terminate()
        process.wait()
        for done in view.admin.delete_topics([TOPIC]).values():
            done.result(30)


def keep_little(view, topic, most_bytes):
    """What is read is deleted soon: half an hour of records would fill the disk."""
    each = {"retention.bytes": most_bytes, "segment.bytes": most_bytes // 8, "file.delete.delay.ms": 1000}
    entries = [ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET) for name, value in each.items()]
    for done in view.admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)]).values():
        done.result(30)


def told(port):
    """Bytes of open windows and of the heap in use, as the process tells them."""
    with urllib.request.urlopen("http://127.0.0.1:{}/metrics".format(port), timeout=20) as answer:
        text = answer.read().decode()
    state = re.search(r'^soma_stage{[^}]*what="state_bytes"} (\S+)', text, re.M)
    heap = re.search(r"^soma_heap_allocated_bytes (\S+)", text, re.M)
    return float(state.group(1)), float(heap.group(1))


def memory_mb(pid):
    with open("/proc/{}/status".format(pid), encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def watch(options, view, process, rate, port):
    """Samples until the time is up and everything is read."""
    total = int(rate * options.minutes * 60)
    feeder, began, samples = fill(options, total, rate), time.monotonic(), []
    try:
        while view.at() < total:
            time.sleep(EVERY_S)
            if process.poll() is not None:
                raise RuntimeError("the view ended with {}".format(process.returncode))
            at = time.monotonic() - began
            if feeder.poll() or at > options.minutes * 60 + 120:
                raise RuntimeError("{} of {} records are committed after {:.0f} s; the feeder says {}".format(view.at(), total, at, feeder.poll()))
            state, heap = told(port)
            samples.append({"at_s": at, "open_mb": state / 1e6, "rss_mb": memory_mb(process.pid), "heap_mb": heap / 1e6,
                            "lag": max(0, min(total, int(rate * at)) - view.at())})
        return samples
    finally:
        feeder.kill()
        feeder.wait()


def slope(samples, name):
    """Change an hour and its standard error, by least squares over means of equal parts of the time."""
    each = len(samples) // PARTS
    parts = [samples[i * each:(i + 1) * each] for i in range(FILLING, PARTS)]
    x, y = ([sum(s[what] for s in part) / each for part in parts] for what in ("at_s", name))
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - middle_x) ** 2 for a in x)
    grows = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y)) / spread
    off = sum((b - middle_y - grows * (a - middle_x)) ** 2 for a, b in zip(x, y))
    return grows * 3600, (off / (len(x) - 2) / spread) ** 0.5 * 3600


def last_window(options):
    """Rows of the newest closed window of the result topic, and how many of them are not as often counted as they were written."""
    start, window = None, {}
    for row in results("bench." + VIEW):
        if start is None or row["window_start"] > start:
            start, window = row["window_start"], {}
        if row["window_start"] == start:
            window[row["run_id"]] = row["events"]
    first, wanted = round((start.timestamp() - BEGIN_S) * 1000), {}
    for nth in range(first, first + HOUR_ROWS):
        run = nth * 7_919 % options.keys
        wanted[run] = wanted.get(run, 0) + 1
    found = {int(run[4:], 16): events for run, events in window.items()}
    return len(found), sum(found.get(run) != events for run, events in wanted.items()) + len(found.keys() - wanted.keys())


def draw(path, samples):
    width, height, left = 1000, 150, 70
    last = samples[-1]["at_s"]
    svg = ['<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
           .format(width + left + 20, len(PANELS) * (height + 45) + 20)]
    for nth, (name, title) in enumerate(PANELS):
        top, most = 30 + nth * (height + 45), max(1.0, *(s[name] for s in samples)) * 1.1
        points = " ".join("{:.1f},{:.1f}".format(left + s["at_s"] / last * width, top + height - s[name] / most * height) for s in samples)
        svg.append('<rect x="{}" y="{}" width="{}" height="{}" fill="none" stroke="grey"/><text x="{}" y="{}" font-weight="bold">{}</text>'
                   .format(left, top, width, height, left, top - 6, title))
        svg.append('<text x="{0}" y="{1}" text-anchor="end">{2:.0f}</text><text x="{0}" y="{3}" text-anchor="end">0</text><text x="{4}" y="{5}" text-anchor="end">{6:.0f} min</text>'
                   .format(left - 6, top + 10, most, top + height, left + width, top + height + 14, last / 60))
        svg.append('<polyline fill="none" stroke="royalblue" stroke-width="1.5" points="{}"/>'.format(points))
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text("\n".join([*svg, "</svg>\n"]), encoding="utf-8")


def main():
    options = arguments()
    view = Ours(options, VIEW)
    port = int(os.environ["SOMA_BENCH_ADMIN_PORT"])
    rate = options.rate
    if not rate:
        most = sustained(options, view)
        rate = int(most / 2)
        print("sustained: {:.0f} records/s with {} keys; fed at {}/s".format(most, options.keys, rate), flush=True)
    # One record makes the topic, so that it can be told to keep little.
    if fill(options, 1).wait():
        raise RuntimeError("the topic was not made")
    view.clear()
    keep_little(view, TOPIC, 1 << 30)
    keep_little(view, "bench." + VIEW, 512 << 20)
    process = view.start()
    try:
        view.until(process, 1)
        samples = watch(options, view, process, rate, port)
        # What the last commit brought about is told with the next.
        time.sleep(2)
    finally:
        process.terminate()
        process.wait()
    draw(options.picture, samples)
    print("picture:", options.picture)
    rows, wrong = last_window(options)
    (heap, heap_error), (rss, rss_error) = slope(samples, "heap_mb"), slope(samples, "rss_mb")
    steady = samples[len(samples) * FILLING // PARTS:]

    def span(name):
        values = [s[name] for s in steady]
        return "{:.0f}..{:.0f}".format(min(values), max(values))
    print("minutes={:g} rate={} keys={} open_window_bytes={:.0f} lag={} rss_mb={} rss_slope_mb_per_h={:.1f} ± {:.1f} heap_mb={} heap_slope_mb_per_h={:.1f} ± {:.1f} last_window_rows={} wrong={}"
          .format(options.minutes, rate, options.keys, max(s["open_mb"] for s in samples) * 1e6, span("lag"), span("rss_mb"), rss, rss_error, span("heap_mb"), heap, heap_error, rows, wrong))
    if wrong or heap > options.slope_max or heap_error > options.slope_max:
        raise SystemExit("a window is wrong, or the heap grows by more than {} MB an hour, or it cannot be told".format(options.slope_max))


if __name__ == "__main__":
    sys.exit(main())
