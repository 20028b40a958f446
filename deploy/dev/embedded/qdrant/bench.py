"""Measures a running server: upserts and searches, from one client. Says nothing of recall: the vectors are random."""

import argparse
import random
import time
import uuid

from qdrant_client import QdrantClient, models

DIM, BATCH, TENANTS, QUERIES = 384, 100, 41, 1000


def percentiles(name, samples):
    ordered = sorted(samples)
    p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    print(f"{name}: p50_ms={p50 * 1000:.2f} p99_ms={p99 * 1000:.2f} max_ms={ordered[-1] * 1000:.2f}")


def timed(call):
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connect", metavar="HOST:PORT", required=True)
    parser.add_argument("--api-key-file", metavar="FILE", required=True)
    parser.add_argument("--points", type=int, default=10_000)
    args = parser.parse_args()
    host, port = args.connect.rsplit(":", 1)
    with open(args.api_key_file, encoding="ascii") as file:
        key = file.read().strip()
    client = QdrantClient(host=host, grpc_port=int(port), prefer_grpc=True, https=False, api_key=key, check_compatibility=False)
    name, rng = f"bench_{uuid.uuid4().hex[:8]}", random.Random(1)
    client.create_collection(name, vectors_config=models.VectorParams(size=DIM, distance=models.Distance.COSINE))
    client.create_payload_index(name, "tenant", models.KeywordIndexParams(type="keyword", is_tenant=True), wait=True)
    try:
        measure(client, name, rng, args)
    finally:
        client.delete_collection(name)


def measure(client, name, rng, args):
    vectors = [[rng.gauss(0, 1) for _ in range(DIM)] for _ in range(args.points)]
    batches = [[models.PointStruct(id=str(uuid.uuid4()), vector=vectors[i], payload={"tenant": f"t{i % TENANTS}"})
                for i in range(start, min(start + BATCH, args.points))] for start in range(0, args.points, BATCH)]
    took = [timed(lambda: client.upsert(name, batch, wait=True)) for batch in batches]
    print(f"upsert: points_per_s={args.points / sum(took):.0f} (batches of {BATCH}, wait=true, one client)")
    percentiles("upsert of one batch", took)
    searches(client, name, rng)
    one = [[models.PointStruct(id=str(uuid.uuid4()), vector=v, payload={"tenant": "t7"})] for v in vectors[:QUERIES]]
    percentiles("upsert of one point", [timed(lambda: client.upsert(name, point, wait=True)) for point in one])


def searches(client, name, rng):
    for what, chosen in (("search", None), ("search in one tenant", models.Filter(
            must=[models.FieldCondition(key="tenant", match=models.MatchValue(value="t7"))]))):
        queries = [[rng.gauss(0, 1) for _ in range(DIM)] for _ in range(QUERIES)]
        percentiles(what, [timed(lambda: client.query_points(name, query=v, query_filter=chosen, limit=10)) for v in queries])


if __name__ == "__main__":
    main()
