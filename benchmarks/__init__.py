"""The published figures and how they are taken: `python -m benchmarks [NAME …]` (or `make bench`).

Each benchmark runs ours and its peer in one session, interleaved, several times over, and returns rows of raw
repetitions; `document` turns them into the table of docs/benchmarks.md and the JSON file beside it.
"""
