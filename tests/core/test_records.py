"""Records on the wire: the golden file of each kind is decoded, and other bytes raise UnreadableRecord."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.samples import GOLDEN, golden_path, samples
from tickerplant.core import records, schemas
from tickerplant.core.errors import UnreadableRecord

SAMPLES = samples()


@pytest.mark.parametrize("name", SAMPLES)
def test_the_golden_file_of_each_kind_decodes_to_its_sample(name: str) -> None:
    record = records.decode(golden_path(name).read_bytes())
    assert record.header == SAMPLES[name].header
    assert record.batch.replace_schema_metadata(None).equals(SAMPLES[name].batch)


def test_every_kind_has_a_golden_file_of_every_version() -> None:
    wanted = {kind.__struct_config__.tag for kind in records.KINDS}
    for version in range(1, records.VERSION + 1):
        assert {path.name.split(".")[0] for path in GOLDEN.glob(f"*.v{version}.arrow")} == wanted


@pytest.mark.parametrize("name", SAMPLES)
def test_a_record_is_a_plain_arrow_stream_and_encodes_to_the_same_bytes_each_time(name: str) -> None:
    sample = SAMPLES[name]
    data = records.encode(sample.header, sample.batch)
    assert bytes(data) == bytes(records.encode(sample.header, sample.batch))
    assert pa.ipc.open_stream(data).read_all().num_rows == sample.batch.num_rows
    assert records.header_of(data) == sample.header


def test_encoding_columns_of_another_kind_raises() -> None:
    with pytest.raises(ValueError, match="columns of a Mark record"):
        records.encode(SAMPLES["mark"].header, SAMPLES["ticks"].batch)


def test_the_error_for_a_newer_version_contains_its_number() -> None:
    header = records.Mark(v=records.VERSION + 1, sent_at_us=0, watermark_us=0)
    with pytest.raises(UnreadableRecord, match=f"version {records.VERSION + 1} is newer"):
        records.decode(records.encode(header))


def test_an_arrow_stream_without_a_header_is_unreadable() -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schemas.SYMBOLS) as stream:
        stream.write_batch(SAMPLES["start"].batch)
    with pytest.raises(UnreadableRecord, match="but without a tickerplant header"):
        records.decode(sink.getvalue())


@given(data=st.binary(max_size=400))
def test_other_bytes_raise_only_unreadable_record(data: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        records.decode(data)


@given(name=st.sampled_from(sorted(SAMPLES)), where=st.floats(0, 1), change=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_record_is_a_record_or_unreadable(name: str, where: float, change: int, cut: bool) -> None:
    data = bytearray(records.encode(SAMPLES[name].header, SAMPLES[name].batch))
    at = min(int(where * len(data)), len(data) - 1)
    if cut:
        del data[at:]
    else:
        data[at] ^= change
    try:
        record = records.decode(bytes(data))
        for column in record.batch.columns:
            times = pa.types.is_timestamp(column.type)  # Python has no datetime for most of these times
            (column.cast(pa.int64()) if times else column).to_pylist()
    except UnreadableRecord:
        pass
