"""Runs `hf-fer predict --engine ray` on two Ray nodes on loopback, kills one half-way, and checks the table.

python tests/drills/ray_drill.py [--clips 2000] [--bad 7] [--json OUT]

The clips and the model are those of predict_drill.py. Each node is a raylet with one core and an object store of its
own; the command is a process of its own, with one actor on each node. When half of the shards are written, the second
node and all of its workers get SIGKILL; how much CPU each node's actor used since the second shard shows that both had
a share of the work. The table is compared with that of one process without Ray.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from predict_drill import SHARD, finish, make_clips, start


def wait_for(parts: Path, count: int, process) -> int:
    """Wait until `count` shards are written; returns how many there are."""
    while (found := len(list(parts.glob("[0-9]*.parquet")))) < count:
        if process.poll() is not None:
            raise SystemExit(f"the command ended before the node was killed: {process.stdout.read()[-2000:]}")
        time.sleep(0.02)
    return found


def computed(node) -> float:
    """Seconds of CPU that the actors of a node have used."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    actors = [child for child in raylet.children(recursive=True) if "ShardPredictor" in " ".join(child.cmdline())]
    return round(sum(actor.cpu_times().user for actor in actors), 1)


def main() -> None:
    """Run the drill, and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--bad", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default 15, at which other jobs starve the actors
    from ray.cluster_utils import Cluster
    from recording_memory import save_model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "clips").mkdir()
        files = make_clips(folder / "clips", args.clips, args.bad)
        save_model(folder / "model", "tiny", ["audio"])
        given = (folder / "model", folder / "clips")
        begun = time.perf_counter()
        print("one process", finish(start(*given, folder / "one.parquet", 1)), flush=True)
        found = {"seconds of one process": round(time.perf_counter() - begun)}
        expected = pq.read_table(folder / "one.parquet")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        try:
            for case in ("two nodes", "one killed"):
                output, begun = folder / f"{case}.parquet", time.perf_counter()
                process = start(*given, output, 2, "--engine", "ray", "--address", cluster.address)
                if case == "one killed":
                    parts, half = folder / f"{output.name}.parts", -(-args.clips // SHARD) // 2
                    nodes = (cluster.head_node, second)
                    started = wait_for(parts, 2, process), [computed(node) for node in nodes]
                    found["shards at the kill"] = wait_for(parts, half, process)
                    found[f"CPU seconds of the actors after shard {started[0]}: head, the node to kill"] = [
                        round(computed(node) - before, 1) for node, before in zip(nodes, started[1], strict=True)
                    ]
                    cluster.remove_node(second, allow_graceful=False)
                print(case, finish(process), flush=True)
                table = pq.read_table(output)
                found |= {
                    f"seconds of {case}": round(time.perf_counter() - begun),
                    f"{case}: each input once and in order": table["input"].to_pylist() == [*map(str, files)],
                    f"{case}: rows with a reason": args.clips - table["error"].null_count,
                    f"{case}: equal to one process without Ray": table.equals(expected),
                }
        finally:
            cluster.shutdown()
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
