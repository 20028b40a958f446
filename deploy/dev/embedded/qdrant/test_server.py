"""Starts the real server on a free port and drives it with the real client. Run: python -m unittest -v test_server"""

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import uuid
from datetime import datetime, timezone

import grpc
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as q

SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "server.py")
KEY = "key-of-the-test"
DIM = 384


def vector(seed):
    return [math.sin(seed * 0.7 + i * (1 + seed % 13)) for i in range(DIM)]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.data, self.key = os.path.join(folder, "data"), os.path.join(folder, "key")
        with open(self.key, "w", encoding="ascii") as file:
            file.write(KEY + "\n")
        self.log = open(os.path.join(folder, "log"), "ab")

    def start(self):
        self.process = subprocess.Popen(self.command(), stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 60
        while subprocess.run([sys.executable, SERVER, "--check", self.address()], capture_output=True).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start: {open(self.log.name).read()}")
        return self

    def command(self, **changes):
        flags = {"listen": self.address(), "path": self.data, "api-key-file": self.key, **changes}
        return [sys.executable, SERVER, *(part for k, v in flags.items() for part in ("--" + k, v))]

    def address(self):
        return f"127.0.0.1:{self.port}"

    def client(self, key=KEY):
        return QdrantClient(host="127.0.0.1", grpc_port=self.port, prefer_grpc=True, https=False, api_key=key,
                            check_compatibility=False, timeout=30)

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(30)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = Server(cls.folder.name).start()
        cls.client = cls.server.client()

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        if cls.server.process.poll() is None:
            cls.server.end(signal.SIGTERM)
        cls.server.log.close()
        cls.folder.cleanup()

    def collection(self, size=DIM, distance=models.Distance.COSINE):
        name = f"c_{uuid.uuid4().hex[:8]}"
        self.client.create_collection(name, vectors_config=models.VectorParams(size=size, distance=distance))
        return name

    def refused(self, code, part, call, *args, **kwargs):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*args, **kwargs)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertIn(part, caught.exception.details())


class Collections(Case):
    def test_lifecycle(self):
        name = self.collection()
        self.assertTrue(self.client.collection_exists(name))
        self.assertIn(name, [c.name for c in self.client.get_collections().collections])
        info = self.client.get_collection(name)
        self.assertEqual((info.config.params.vectors.size, info.points_count, info.status), (DIM, 0, "green"))
        self.refused(grpc.StatusCode.ALREADY_EXISTS, name, self.client.create_collection, name,
                     vectors_config=models.VectorParams(size=3, distance=models.Distance.DOT))
        self.assertTrue(self.client.delete_collection(name))
        self.assertFalse(self.client.collection_exists(name))
        self.refused(grpc.StatusCode.NOT_FOUND, name, self.client.get_collection, name)
        self.refused(grpc.StatusCode.NOT_FOUND, name, self.client.query_points, name, query=vector(1))
        self.client.create_collection(name, vectors_config=models.VectorParams(size=3, distance=models.Distance.DOT))
        self.assertEqual(self.client.count(name).count, 0)

    def test_what_is_not_supported_is_refused_by_name(self):
        params = models.VectorParams(size=3, distance=models.Distance.DOT)
        no = grpc.StatusCode.UNIMPLEMENTED
        self.refused(no, "shard_number", self.client.create_collection, "x", vectors_config=params, shard_number=2)
        self.refused(no, "quantization_config", self.client.create_collection, "x", vectors_config=params,
                     quantization_config=models.BinaryQuantization(binary=models.BinaryQuantizationConfig()))
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "collection_name", self.client.create_collection, "a/b",
                     vectors_config=params)
        name = self.collection(3)
        self.refused(no, "optimizers_config", self.client.update_collection, name,
                     optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1))
        self.refused(no, "Query.recommend", self.client.query_points, name,
                     query=models.RecommendQuery(recommend=models.RecommendInput(positive=[1])))
        self.refused(no, "prefetch", self.client.query_points, name, query=models.FusionQuery(fusion=models.Fusion.RRF),
                     prefetch=[models.Prefetch(query=[1, 0, 0])])
        self.refused(no, "qdrant.Points/Facet", self.client.facet, name, key="k")
        self.refused(no, "qdrant.Collections/ListAliases", self.client.get_aliases)
        self.refused(no, "shard_key_selector", self.client.upsert, name, [models.PointStruct(id=1, vector=[1, 0, 0])],
                     shard_key_selector="a")

    def test_key(self):
        for key in ("wrong", None):
            with self.subTest(key=key):
                self.refused(grpc.StatusCode.UNAUTHENTICATED, "api-key", self.server.client(key).get_collections)

    def test_standard_health(self):
        with grpc.insecure_channel(self.server.address()) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            self.assertEqual(check(b"", timeout=5), b"\x08\x01")
            self.assertTrue(q.QdrantStub(channel).HealthCheck(q.HealthCheckRequest(), timeout=5).version.startswith("1."))

    def test_start_faults_name_the_flag(self):
        busy, other = self.server, tempfile.mkdtemp(dir=self.folder.name)
        file = busy.key
        for flag, changes in (("--listen", {"path": other}), ("--path", {"listen": "127.0.0.1:0"}),
                              ("--path", {"listen": "127.0.0.1:0", "path": os.path.join(file, "x")}),
                              ("--api-key-file", {"api-key-file": os.path.join(other, "none")})):
            with self.subTest(flag=flag, changes=changes):
                done = subprocess.run(busy.command(**changes), capture_output=True, text=True, timeout=30)
                self.assertEqual(done.returncode, 1)
                self.assertIn(flag, done.stderr.splitlines()[-1])


class Points(Case):
    def test_payload_comes_back_as_it_went_in(self):
        name, ident = self.collection(3), str(uuid.uuid4())
        sent = {"null": None, "yes": True, "no": False, "int": -5, "big": 2**63 - 1, "double": 5.0, "text": "día ✓", "list": [1, "a", None, 2.5],
                "struct": {"deep": {"er": [{"x": 1}]}}, "empty": [], "nothing": {}}
        self.client.upsert(name, [models.PointStruct(id=ident, vector=[0, 3, 4], payload=sent),
                                  models.PointStruct(id=2**64 - 1, vector=[1, 0, 0])], wait=True)
        found = self.client.retrieve(name, [ident, 2**64 - 1, 7], with_vectors=True)
        self.assertEqual({f.id for f in found}, {ident, 2**64 - 1})
        one = next(f for f in found if f.id == ident)
        self.assertEqual(one.payload, sent)
        self.assertIsInstance(one.payload["double"], float)
        for got, want in zip(one.vector, [0, 0.6, 0.8]):  # cosine vectors are kept normalised
            self.assertAlmostEqual(got, want, places=6)

    def test_filters(self):
        name = self.collection(3)
        rows = [{"t": "a", "n": 1, "b": True, "at": "2026-01-01T00:00:00Z", "k": ["x", "y"], "o": [{"p": 1, "q": "u"}]},
                {"t": "b", "n": 2, "b": False, "at": "2026-02-01T00:00:00Z", "k": [], "o": [{"p": 1, "q": "v"}, {"p": 2, "q": "u"}]},
                {"t": "c", "n": 3, "b": True, "at": "2026-03-01T00:00:00Z", "k": None}]
        self.client.upsert(name, [models.PointStruct(id=i, vector=[1, i, 0], payload=r) for i, r in enumerate(rows, 1)])
        m, field = models, models.FieldCondition

        def ids(**parts):
            points, _ = self.client.scroll(name, scroll_filter=m.Filter(**parts), limit=10)
            counted = self.client.count(name, count_filter=m.Filter(**parts)).count
            self.assertEqual(counted, len(points))
            return [p.id for p in points]

        def where(**kwargs):
            return ids(must=[field(**kwargs)])

        self.assertEqual(where(key="t", match=m.MatchValue(value="a")), [1])
        self.assertEqual(where(key="n", match=m.MatchValue(value=2)), [2])
        self.assertEqual(where(key="b", match=m.MatchValue(value=True)), [1, 3])
        self.assertEqual(where(key="b", match=m.MatchValue(value=False)), [2])
        self.assertEqual(where(key="t", match=m.MatchAny(any=["a", "c"])), [1, 3])
        self.assertEqual(where(key="n", match=m.MatchAny(any=[2, 3])), [2, 3])
        self.assertEqual(where(key="t", match=m.MatchExcept(**{"except": ["a"]})), [2, 3])
        self.assertEqual(where(key="n", range=m.Range(gt=1, lte=3)), [2, 3])
        self.assertEqual(where(key="at", range=m.DatetimeRange(gte=datetime(2026, 2, 1, tzinfo=timezone.utc))), [2, 3])
        self.assertEqual(where(key="k", values_count=m.ValuesCount(gte=2)), [1])
        self.assertEqual(ids(must=[m.IsEmptyCondition(is_empty=m.PayloadField(key="k"))]), [2, 3])
        self.assertEqual(ids(must=[m.IsNullCondition(is_null=m.PayloadField(key="k"))]), [3])
        self.assertEqual(ids(must=[m.HasIdCondition(has_id=[1, 3])]), [1, 3])
        self.assertEqual(ids(must_not=[field(key="t", match=m.MatchValue(value="a"))]), [2, 3])
        self.assertEqual(ids(should=[field(key="n", match=m.MatchValue(value=n)) for n in (1, 3)]), [1, 3])
        both = m.Filter(must=[field(key="p", match=m.MatchValue(value=1)), field(key="q", match=m.MatchValue(value="u"))])
        self.assertEqual(ids(must=[m.NestedCondition(nested=m.Nested(key="o", filter=both))]), [1])
        self.assertEqual(ids(must=[m.Filter(should=[field(key="t", match=m.MatchValue(value="b"))])]), [2])

    def test_query(self):
        name = self.collection()
        self.client.upsert(name, [models.PointStruct(id=i, vector=vector(i), payload={"tenant": f"t{i % 4}"}) for i in range(200)])
        self.client.create_payload_index(name, "tenant", models.PayloadSchemaType.KEYWORD, wait=True)
        self.assertIn("tenant", self.client.get_collection(name).payload_schema)
        exact = models.SearchParams(exact=True)
        found = self.client.query_points(name, query=vector(42), limit=5, search_params=exact).points
        self.assertEqual(found[0].id, 42)
        self.assertAlmostEqual(found[0].score, 1.0, places=5)
        self.assertEqual([p.score for p in found], sorted((p.score for p in found), reverse=True))
        after = self.client.query_points(name, query=vector(42), limit=3, offset=2, search_params=exact, with_payload=False).points
        self.assertEqual([p.id for p in after], [p.id for p in found[2:]])
        tenant = models.Filter(must=[models.FieldCondition(key="tenant", match=models.MatchValue(value="t1"))])
        mine = self.client.query_points(name, query=vector(42), query_filter=tenant, limit=100, with_vectors=True).points
        self.assertEqual(len(mine), 50)
        self.assertEqual({p.payload["tenant"] for p in mine}, {"t1"})
        self.assertEqual(len(mine[0].vector), DIM)
        self.assertEqual(len(self.client.query_points(name, query=vector(42), score_threshold=0.999, limit=100).points), 1)
        near = self.client.query_points(name, query=42, limit=200).points
        self.assertEqual(len(near), 199)
        self.assertNotIn(42, [p.id for p in near])
        self.refused(grpc.StatusCode.NOT_FOUND, "12345", self.client.query_points, name, query=12345)
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "expected dim: 384, got 3", self.client.query_points, name, query=[1.0, 0, 0])

    def test_scroll_pages_and_deletes(self):
        name = self.collection(3)
        self.client.upsert(name, [models.PointStruct(id=i, vector=[1, i, 1], payload={"even": i % 2 == 0}) for i in range(25)])
        seen, offset = [], None
        while True:
            page, offset = self.client.scroll(name, limit=10, offset=offset)
            seen += [p.id for p in page]
            if offset is None:
                break
        self.assertEqual(seen, list(range(25)))
        self.client.delete(name, [0, 1, 999], wait=True)
        self.assertEqual(self.client.count(name).count, 23)
        even = models.Filter(must=[models.FieldCondition(key="even", match=models.MatchValue(value=True))])
        self.client.delete(name, models.FilterSelector(filter=even), wait=True)
        self.assertEqual(self.client.count(name).count, 11)

    def test_payload_edits(self):
        name = self.collection(3)
        self.client.upsert(name, [models.PointStruct(id=1, vector=[1, 1, 1], payload={"a": 1, "b": 2})])

        def now():
            return self.client.retrieve(name, [1])[0].payload

        self.client.set_payload(name, {"c": [3]}, points=[1])
        self.assertEqual(now(), {"a": 1, "b": 2, "c": [3]})
        self.client.delete_payload(name, ["a"], points=[1])
        self.assertEqual(now(), {"b": 2, "c": [3]})
        self.client.overwrite_payload(name, {"z": None}, points=[1])
        self.assertEqual(now(), {"z": None})
        self.client.clear_payload(name, [1])
        self.assertEqual(now(), {})
        self.refused(grpc.StatusCode.NOT_FOUND, "77", self.client.set_payload, name, {"c": 1}, points=[77])

    def test_a_bad_point_stops_the_whole_batch(self):
        name, bad = self.collection(3), grpc.StatusCode.INVALID_ARGUMENT
        good = models.PointStruct(id=1, vector=[1, 0, 0])
        for part, wrong in (("expected dim: 3, got 2", [1, 0]), ("points[1]", {"other": [1, 0, 0]}), ("finite", [math.nan, 0, 0])):
            with self.subTest(part):
                self.refused(bad, part, self.client.upsert, name, [good, models.PointStruct(id=2, vector=wrong)])
        self.refused(bad, "UUID", self.client.upsert, name, [good, models.PointStruct(id="not-a-uuid", vector=[1, 0, 0])])
        self.assertEqual(self.client.count(name).count, 0)


class Durability(Case):
    def test_kill_9_loses_no_acknowledged_write(self):
        name, acknowledged = self.collection(), 0
        for batch in range(3):
            for _ in range(40):
                points = [models.PointStruct(id=acknowledged + i, vector=vector(acknowledged + i), payload={"n": acknowledged + i})
                          for i in range(50)]
                self.client.upsert(name, points, wait=True)
                acknowledged += 50
            self.client.delete(name, [batch], wait=True)
            self.server.end(signal.SIGKILL)  # at once: before the background flush
            self.server.start()
            self.assertEqual(self.client.count(name).count, acknowledged - batch - 1)
            last = self.client.retrieve(name, [acknowledged - 1])[0]
            self.assertEqual(last.payload, {"n": acknowledged - 1})
        self.assertEqual(self.server.end(signal.SIGTERM), 0)
        done = subprocess.run([sys.executable, SERVER, "--optimize", "--path", self.server.data], capture_output=True, text=True)
        self.assertEqual((done.returncode, name in done.stdout), (0, True), done.stderr)
        self.server.start()
        self.assertEqual(self.client.count(name).count, acknowledged - 3)


if __name__ == "__main__":
    unittest.main()
