"""The published JSON Schema describes what -f json writes."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest

from nndiag.render import json as rendered
from render import sample

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("reports", [(report,) for report in sample.every()] + [sample.six()])
def test_every_report_is_valid(reports):
    VALIDATOR.validate(json.loads(rendered.render(reports)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), "2.0"),
        (("status",), "fine"),
        (("exit_code",), 7),
        (("findings", 0, "severity"), "fatal"),
        (("findings", 0, "fingerprint"), "x"),
        (("findings", 0, "evidence", "interval"), [1]),
        (("coverage", "skipped", 0, "reason"), ""),
        (("series", 0, "y", 0), "NaN"),
        (("run", "timing"), None),
    ],
)
def test_the_schema_notices_what_is_wrong(path, value):
    document = copy.deepcopy(sample.dropout().to_dict())
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert not VALIDATOR.is_valid(document)


def test_every_key_that_is_written_is_described():
    report = SCHEMA["$defs"]["report"]["properties"]
    finding = SCHEMA["$defs"]["finding"]["properties"]
    for item in sample.every():
        document = item.to_dict()
        assert set(document) <= set(report)
        for entry in document["findings"]:
            assert set(entry) <= set(finding)
            assert set(entry["where"]) <= set(finding["where"]["properties"])
            assert set(entry["evidence"]) <= set(finding["evidence"]["properties"])
        for key in ("measurements", "series", "tables"):
            for entry in document[key]:
                assert set(entry) <= set(report[key]["items"]["properties"])
