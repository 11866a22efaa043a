"""Settings: each is documented, each value has an origin, and each mistake is explained in one sentence."""

from pathlib import Path

import pytest

from tickerplant.app.config import describe
from tickerplant.app.config.settings import Settings, access_variables, child_environment, load
from tickerplant.core.errors import ConfigError
from tickerplant.core.rules import DEFAULT_RULES, Rules, values_of
from tickerplant.core.times import DAY_US
from tickerplant.log.topic_policy import TopicPolicy

DOCS = Path(__file__).parents[3] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("TICKERPLANT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


def test_every_setting_is_documented() -> None:
    page = DOCS.read_text()
    for row in describe.rows(load()):
        assert len(row.description) > 10, row.name
        listed = not row.name.startswith(describe.UNDOCUMENTED)
        assert listed == (f"| `{row.name}` | `{row.environment}` |" in page), (
            f"{row.name}: run tickerplant config --markdown"
        )


def test_the_page_equals_the_generated_text() -> None:
    assert DOCS.read_text() == describe.markdown()


def test_every_rule_has_a_setting_and_the_defaults_are_the_same() -> None:
    from_settings = load().settings.rules.rules()
    assert set(values_of(from_settings)) <= {"calendar_version", "calendars"}
    assert list(from_settings.calendars) == ["{currency}/{currency}", *DEFAULT_RULES.calendars], (
        "new logs have FX first"
    )
    fields = set(type(load().settings.rules).model_fields)
    assert {name.replace("_us", "_ms") for name in Rules.__struct_fields__} - fields == {"calendar_version"}
    assert from_settings.indicators == DEFAULT_RULES.indicators


def test_a_file_of_few_symbols_has_one_partition_and_other_logs_have_four() -> None:
    many = tuple(f"S{number}" for number in range(1_001))
    assert load().settings.new_partitions == 1
    assert load({"symbols": many[:1_000]}).settings.new_partitions == 1
    assert load({"symbols": many}).settings.new_partitions == 4
    assert load({"log": "kafka://127.0.0.1:9092"}).settings.new_partitions == 4
    assert load({"partitions": 2, "symbols": many}).settings.new_partitions == 2
    assert load().for_files().settings.new_partitions == 4
    assert load({"partitions": 2}).for_files().settings.new_partitions == 2


def test_the_precedence_is_flag_environment_file_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my.toml"
    file.write_text('partitions = 2\nsymbols = ["IBM"]\n[api]\nport = 1\nhost = "0.0.0.0"\n')
    monkeypatch.setenv("TICKERPLANT_API__PORT", "2")
    monkeypatch.setenv("TICKERPLANT_PARTITIONS", "3")
    loaded = load({"partitions": 8, "data": tmp_path}, config=file)
    rows = {row.name: (row.value, row.origin) for row in describe.rows(loaded)}
    assert rows["partitions"] == (8, "flag")
    assert rows["api.port"] == (2, "environment")
    assert rows["api.host"] == ("0.0.0.0", str(file))
    assert rows["symbols"] == (["IBM"], str(file))
    assert rows["instance"] == ("0", "default")


def test_the_file_in_the_data_folder_is_read_unless_another_is_named(tmp_path: Path) -> None:
    (tmp_path / "tickerplant.toml").write_text("partitions = 7\n")
    assert load({"data": tmp_path}).settings.partitions == 7


def test_commands_name_the_data_folder_unless_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert load().settings.command("up") == "tickerplant up"
    assert load({"data": tmp_path / "tickerplant"}).settings.command("up") == "tickerplant up"
    assert load({"data": Path("/a folder")}).settings.command("run store") == "tickerplant run store --data '/a folder'"


def test_lists_in_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERPLANT_SYMBOLS", "aapl, eur/usd,AAPL")
    monkeypatch.setenv("TICKERPLANT_RULES__SOURCES", "twelvedata, *")
    settings = load().settings
    assert settings.symbols == ("AAPL", "EUR/USD")
    assert settings.rules.sources == ("twelvedata", "*")


def test_a_given_table_replaces_the_default_table(tmp_path: Path) -> None:
    (tmp_path / "tickerplant.toml").write_text('[rules.calendars]\n"*" = "XLON"\n')
    assert load({"data": tmp_path}).settings.rules.calendars == {"*": "XLON"}


def test_kafka_properties_pass_through_with_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERPLANT_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("TICKERPLANT_KAFKA__SASL_PASSWORD", "hush")
    loaded = load()
    assert loaded.settings.kafka == {"security.protocol": "SASL_SSL", "sasl.password": "hush"}
    assert "hush" not in str(list(describe.rows(loaded)))


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERPLANT_VENDORS__TWELVE_DATA_KEY", "hush")
    monkeypatch.setenv("TICKERPLANT_STORE", "postgresql://me:hush@db:5432/prices")
    loaded = load()
    shown = {row.name: row.value for row in describe.rows(loaded)}
    assert shown["vendors.twelve_data_key"] == "********"
    assert shown["store"] == "postgresql://me:********@db:5432/prices"
    assert not loaded.settings.wants_sandbox
    assert "hush" not in repr(loaded.settings)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me@h/d?password=hush&sslmode=require", "postgresql://me@h/d?password=********&sslmode=require"),
        ("postgresql:///d?user=me&PASSWORD=hush", "postgresql:///d?user=me&PASSWORD=********"),
        ("postgresql://me:hu:sh@/d?host=/run/pg", "postgresql://me:********@/d?host=/run/pg"),
        ("postgresql://me:hu@sh@h/d", "postgresql://me:********@h/d"),
        ("postgresql://me:hush?x@h/d", "postgresql://********"),
        ("postgresql://me:hush@a:5432,b:5433/d", "postgresql://me:********@a:5432,b:5433/d"),
        ("postgresql://h/d?sslkey=/k.pem&sslpassword=hush", "postgresql://h/d?sslkey=/k.pem&sslpassword=********"),
    ],
)
def test_an_address_is_shown_without_its_passwords(monkeypatch: pytest.MonkeyPatch, url: str, shown: str) -> None:
    monkeypatch.setenv("TICKERPLANT_STORE", url)
    assert {row.name: row.value for row in describe.rows(load())}["store"] == shown


def test_paths_of_keys_are_shown_and_keys_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERPLANT_STORE", "postgresql://me:hu%2Fsh@h/d?sslkey=/k.pem&sslpassword=hush%2F7")
    files = {"ssl.key.location": "/k.pem", "ssl.keystore.location": "/k.p12", "ssl.ca.location": "/ca.pem"}
    hidden = {"ssl.key.password": "h1", "ssl.key.pem": "h2", "sasl.oauthbearer.client.secret": "h3",
              "sasl.oauthbearer.assertion.private.key.passphrase": "h4"}  # fmt: skip
    settings = load({"kafka": files | hidden})
    shown = next(row.value for row in describe.rows(settings) if row.name == "kafka")
    assert shown == files | dict.fromkeys(hidden, describe.HIDDEN)
    assert set(describe.secret_values(settings.settings)) == {
        *hidden.values(), "hu%2Fsh", "hu/sh", "hush/7", "hush%2F7",
    }  # fmt: skip


def test_a_key_that_looks_like_an_address_is_hidden_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERPLANT_API__KEY", "hush://hush@hush")
    monkeypatch.setenv("TICKERPLANT_STORE__READER_PASSWORD", "hush://hush@hush")
    rows = list(describe.rows(load()))
    assert "hush" not in str(rows)
    assert {row.name: row.value for row in rows}["store.reader_password"] == "********"


def test_access_to_the_store_has_settings_below_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tickerplant.toml").write_text(
        '[store]\nurl = "postgresql://u@h/d"\nlisten = "localhost"\nsocket = "/run/x"\n'
    )
    monkeypatch.setenv("TICKERPLANT_STORE__LISTEN", "127.0.0.1:6000")
    monkeypatch.setenv("TICKERPLANT_STORE__READER", "people")
    loaded = load({"data": tmp_path})
    rows = [row for row in describe.rows(loaded) if row.name == "store" or row.name.startswith("store.")]
    shown = {row.name: (row.value, row.origin) for row in rows}
    file = str(tmp_path / "tickerplant.toml")
    assert shown == {
        "store": ("postgresql://u@h/d", file),
        "store.listen": ("127.0.0.1:6000", "environment"),
        "store.socket": ("/run/x", file),
        "store.reader": ("people", "environment"),
        "store.reader_password": (None, "default"),
        "store.binaries": (None, "default"),
    }
    monkeypatch.setenv("TICKERPLANT_STORE", "embedded:")  # beside variables of the table
    assert load({"data": tmp_path}).settings.embedded_store
    assert load({"data": tmp_path, "store": "postgresql://f@h/d"}).origins["store"] == "flag"


def test_child_processes_get_the_addresses_of_the_store_and_not_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "other.toml"
    file.write_text(
        '[store]\nlisten = "127.0.0.1:6000"\nbinaries = "/usr/pg/bin"\nreader_password = "hush-hush-hush"\n'
    )
    monkeypatch.setenv("TICKERPLANT_STORE__READER_PASSWORD", "hush-hush-hush")
    assert access_variables(load(config=file).settings) == {
        "TICKERPLANT_STORE__LISTEN": "127.0.0.1:6000",
        "TICKERPLANT_STORE__BINARIES": "/usr/pg/bin",
    }
    assert "hush" not in str(child_environment())


def test_a_key_may_have_blanks_around_it_but_no_invalid_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERPLANT_VENDORS__TWELVE_DATA_KEY", " hush\n")
    monkeypatch.setenv("TICKERPLANT_VENDORS__KEYS__ACME", "tale\r\n")
    vendors = load().settings.vendors
    assert (vendors.key("twelvedata"), vendors.key("acme")) == ("hush", "tale")
    for odd in ("hu\nsh", "hu sh", "hüsh", "“hush”", "hu\x07sh"):
        monkeypatch.setenv("TICKERPLANT_VENDORS__KEYS__ACME", odd)
        with pytest.raises(ConfigError, match="copy it from the vendor's page") as caught:
            load()
        assert odd not in str(caught.value)
        assert "vendors.keys" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TICKERPLANT_PARTITIONS", "many", ["partitions", "environment", "integer"]),
        ("TICKERPLANT_PORT", "1", ["TICKERPLANT_PORT", "is not a setting"]),
        ("TICKERPLANT_LOG", "redis://here", ["log", "redis://here", "kafka://"]),
        ("TICKERPLANT_SYMBOLS", "AAPL,$$", ["symbols", "'$$'"]),
        ("TICKERPLANT_API__COLOUR", "red", ["api.colour", "is not a setting"]),
        ("TICKERPLANT_STORE", "mysql://u:hush@h/d", ["store", "postgresql://"]),
        ("TICKERPLANT_STORE__LISTEN", "here:port", ["store.listen", "environment", "'here:port'", "127.0.0.1:5432"]),
        ("TICKERPLANT_STORE__LISTEN", "127.0.0.1:0", ["store.listen", "127.0.0.1:5432"]),
        ("TICKERPLANT_STORE__SOCKET", "here", ["store.socket", "'here'", "absolute"]),
        ("TICKERPLANT_STORE__BINARIES", "here", ["store.binaries", "'here'", "/usr/lib/postgresql"]),
        ("TICKERPLANT_TOPICS__RETENTION_DAYS", "market.prices.raw=2", ["topics.retention_days", "between 5"]),
        ("TICKERPLANT_TOPICS__RETENTION_DAYS", "market.prices=9", ["topics.retention_days", "'market.prices'"]),
        ("TICKERPLANT_TOPICS__RETENTION_DAYS", "market.prices.raw", ["TOPIC=DAYS"]),
        ("TICKERPLANT_TOPICS__REPLICAS", "0", ["topics.replicas", "greater than or equal to 1"]),
        ("TICKERPLANT_STORE__READER", "postgres", ["store.reader", "'postgres'", "another role"]),
        ("TICKERPLANT_STORE__READER", "Me; DROP", ["store.reader"]),
        ("TICKERPLANT_STORE__READER_PASSWORD", "hush", ["store.reader_password", "12"]),
        ("TICKERPLANT_STORE__COLOUR", "red", ["store.colour", "is not a setting"]),
        ("TICKERPLANT_STORE_ACCESS__LISTEN", "127.0.0.1", ["TICKERPLANT_STORE_ACCESS__LISTEN", "is not a setting"]),
        ("TICKERPLANT_RULES__SOURCES", "yahoo:candles", ["rules.sources", "yahoo:candles", ":ticks|:bars"]),
        ("TICKERPLANT_RULES__ACTIVITY_BARS", '{"*": ["5m"]}', ["activity_bars", "'5m'", "100t"]),
    ],
)
def test_a_mistake_is_explained_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: list[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load()
    text = str(caught.value)
    assert "\n" not in text
    assert "hush" not in text
    for word in words:
        assert word in text


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tickerplant.toml").write_text("partitions = = 7\n")
    with pytest.raises(ConfigError, match=r"tickerplant\.toml cannot be read"):
        load({"data": tmp_path})
    with pytest.raises(ConfigError, match="there is no settings file"):
        load(config=tmp_path / "none.toml")


def test_loaded_settings_cannot_be_changed() -> None:
    settings = load().settings
    with pytest.raises(ValueError, match="frozen"):
        settings.partitions = 9
    assert isinstance(settings, Settings)


def test_settings_of_topics_are_in_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "topics.toml"
    file.write_text('[topics]\nreplicas = 3\n[topics.retention_days]\n"market.prices.ohlcv" = 10\n')
    monkeypatch.setenv("TICKERPLANT_TOPICS__RETENTION_DAYS", "market.prices.raw=30, market.alerts=60")
    monkeypatch.setenv("TICKERPLANT_TOPICS__MIN_INSYNC_REPLICAS", "2")
    days = {"market.prices.raw": 30, "market.alerts": 60}
    assert load(config=file).settings.topics.policy() == TopicPolicy(3, 2, {k: v * DAY_US for k, v in days.items()})
    monkeypatch.delenv("TICKERPLANT_TOPICS__RETENTION_DAYS")
    assert load(config=file).settings.topics.retention_days == {"market.prices.ohlcv": 10}
    assert load().settings.topics.policy() == TopicPolicy(min_insync_replicas=2)


def test_history_is_a_list_of_ranges_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().settings.history == ("1d:3650", "5m:max", "1m:max")
    monkeypatch.setenv("TICKERPLANT_HISTORY", "1d:30, 5m:10")
    assert load().settings.history == ("1d:30", "5m:10")
    monkeypatch.setenv("TICKERPLANT_HISTORY", "1m:max")
    assert load().settings.history == ("1m:max",)
    monkeypatch.setenv("TICKERPLANT_HISTORY", "none")
    assert load().settings.history == ()
    for wrong in ("1d", "1d:0", "1d:-3", "15m:3", "1d:30,none", "1d:1.5"):
        monkeypatch.setenv("TICKERPLANT_HISTORY", wrong)
        with pytest.raises(ConfigError, match="interval:days"):
            load()
