"""Writes the small Parquet files of tests/data, and what Arrow reads from them; run with pyarrow 26.0.1 and duckdb.

    python make_fixtures.py
"""

import datetime
import json
import pathlib

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).parent


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


# Every way that nothing can be written, at every depth.
NESTED = [
    {"id": 0, "messages": [turn("user", "a", tool_calls=None), turn("assistant", "b", tool_calls=[])], "x": [[1, None], [], None]},
    {"id": None, "messages": None, "x": None},
    {"id": 2, "messages": [], "x": []},
    {"id": 3, "messages": [None, turn("user", None, tool_calls=[{"f": "g"}, None])], "x": [[]]},
    {"id": 4, "messages": [turn("user", "é" * 40, tool_calls=None)], "x": [None]},
    {"id": 5, "messages": [turn("system", "", tool_calls=[])] * 3, "x": [[4], [5, 6]]},
] * 60  # more rows than are decoded at once

CALL = pa.struct([("f", pa.string())])


def nested(string, list_of):
    message = pa.struct([("role", string), ("content", string), ("tool_calls", list_of(CALL))])
    schema = pa.schema([("id", pa.int64()), ("messages", list_of(message)), ("x", list_of(list_of(pa.int32())))])
    return pa.Table.from_pylist(NESTED, schema=schema)


def write_nested():
    plain = nested(pa.string(), pa.list_)
    large = nested(pa.large_string(), pa.large_list)
    assert plain.to_pylist() == large.to_pylist() == NESTED
    # Small pages and row groups, so that rows begin in the middle of both.
    small = {"row_group_size": 101, "data_page_size": 256, "write_batch_size": 7}
    pq.write_table(plain, HERE / "nested-snappy.parquet", compression="snappy", **small)
    pq.write_table(plain, HERE / "nested-v2-zstd.parquet", compression="zstd", data_page_version="2.0", **small)
    pq.write_table(large, HERE / "nested-large-gzip.parquet", compression="gzip", data_page_version="2.0")
    pq.write_table(plain, HERE / "nested-brotli.parquet", compression="brotli")
    pq.write_table(plain, HERE / "nested-lz4.parquet", compression="lz4")
    # Delta encodings in place of dictionaries.
    encodings = {
        "id": "DELTA_BINARY_PACKED",
        "messages.list.element.role": "DELTA_BYTE_ARRAY",
        "messages.list.element.content": "DELTA_LENGTH_BYTE_ARRAY",
    }
    pq.write_table(plain, HERE / "nested-delta.parquet", use_dictionary=False, column_encoding=encodings, compression="none")
    # Lists as older writers name them.
    pq.write_table(plain, HERE / "nested-item.parquet", use_compliant_nested_type=False)
    duckdb.sql(f"copy (select * from plain) to '{HERE}/nested-duckdb.parquet' (format parquet)")
    (HERE / "nested.json").write_text(json.dumps(NESTED[:6]), encoding="utf-8")


def write_types():
    prompts = ["Name a colour.", "Name a fruit."]
    unread = "interval 3 days as i, 'infinity'::timestamp as t, 'infinity'::date as d, [interval 1 day] as l"
    values = ", ".join(f"('{p}')" for p in prompts)
    duckdb.sql(f"copy (select prompt, {unread} from (values {values}) v(prompt)) to '{HERE}/unread.parquet' (format parquet)")
    table = pa.table(
        {
            "prompt": pa.array([p.encode() for p in prompts], pa.binary()),
            "messages": pa.array([b"\xff\xfe", b"\x00\x80"], pa.binary()),
            "fixed": pa.array([b"abcd", b"\xff\x00\xff\x00"], pa.binary(4)),
            "when": pa.array([datetime.datetime(2026, 1, 1)] * 2, pa.timestamp("us")),
            "half": pa.array([1.5, None], pa.float16()),
            "not_finite": pa.array([float("nan"), float("-inf")], pa.float64()),
            "unsigned": pa.array([2**64 - 1, 0], pa.uint64()),
            "decimal": pa.array(["-1.25", "3.00"]).cast(pa.decimal128(20, 2)),
            "view": pa.array(prompts, pa.string_view()),
            "category": pa.array(prompts).dictionary_encode(),
        }
    )
    pq.write_table(table, HERE / "types.parquet")


if __name__ == "__main__":
    write_nested()
    write_types()
