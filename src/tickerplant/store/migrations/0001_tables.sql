-- The tables of the plant. Sections between "-- only: FLAVOUR" and "-- end" are for that flavour alone.

CREATE TABLE plant (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    log_id text NOT NULL,
    generation integer NOT NULL,
    bound_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE plant IS 'The log that this store follows: one row.';

CREATE TABLE positions (
    topic text NOT NULL,
    partition integer NOT NULL,
    log_id text NOT NULL,
    generation integer NOT NULL,
    position bigint NOT NULL,
    resume bigint NOT NULL,
    cause bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE positions IS 'How far each partition of the log is applied: changed in the transaction of the rows.';
COMMENT ON COLUMN positions.position IS 'The next offset to apply.';
COMMENT ON COLUMN positions.resume IS 'Where to read again from: the oldest record whose forming rows were not yet written.';
COMMENT ON COLUMN positions.cause IS 'The version of the newest raw record that has been applied.';

CREATE TABLE realtime_prices (
    time timestamptz NOT NULL,
    symbol text NOT NULL,
    price double precision NOT NULL,
    size double precision NOT NULL,
    source text NOT NULL,
    trade_id text,
    flags integer NOT NULL,
    received_at timestamptz NOT NULL
)
-- only: postgresql
PARTITION BY RANGE (time)
-- end
;
CREATE INDEX realtime_prices_symbol_time ON realtime_prices (symbol, time);

CREATE TABLE intraday_ohlcv (
    symbol text NOT NULL,
    interval text NOT NULL,
    time timestamptz NOT NULL,
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision NOT NULL,
    vwap double precision,
    trades bigint,
    state text NOT NULL,
    complete boolean NOT NULL,
    history boolean NOT NULL,
    revision integer NOT NULL,
    version bigint NOT NULL,
    reason text NOT NULL,
    source text NOT NULL,
    published_at timestamptz NOT NULL,
    PRIMARY KEY (symbol, interval, time)
)
-- only: postgresql
PARTITION BY RANGE (time)
-- end
;

CREATE TABLE historical_ohlcv (
    symbol text NOT NULL,
    interval text NOT NULL,
    time timestamptz NOT NULL,
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision NOT NULL,
    vwap double precision,
    trades bigint,
    state text NOT NULL,
    complete boolean NOT NULL,
    history boolean NOT NULL,
    revision integer NOT NULL,
    version bigint NOT NULL,
    reason text NOT NULL,
    source text NOT NULL,
    published_at timestamptz NOT NULL,
    PRIMARY KEY (symbol, interval, time)
)
-- only: postgresql
PARTITION BY RANGE (time)
-- end
;

CREATE TABLE intraday_analytics (
    symbol text NOT NULL,
    interval text NOT NULL,
    time timestamptz NOT NULL,
    state text NOT NULL,
    version bigint NOT NULL,
    sma_20 double precision,
    sma_50 double precision,
    sma_200 double precision,
    ema_12 double precision,
    ema_26 double precision,
    ema_50 double precision,
    ema_200 double precision,
    rsi_14 double precision,
    bbands_20_2_upper double precision,
    bbands_20_2_middle double precision,
    bbands_20_2_lower double precision,
    PRIMARY KEY (symbol, interval, time)
)
-- only: postgresql
PARTITION BY RANGE (time)
-- end
;

CREATE TABLE daily_analytics (
    symbol text NOT NULL,
    interval text NOT NULL,
    time timestamptz NOT NULL,
    state text NOT NULL,
    version bigint NOT NULL,
    sma_20 double precision,
    sma_50 double precision,
    sma_200 double precision,
    ema_12 double precision,
    ema_26 double precision,
    ema_50 double precision,
    ema_200 double precision,
    rsi_14 double precision,
    bbands_20_2_upper double precision,
    bbands_20_2_middle double precision,
    bbands_20_2_lower double precision,
    PRIMARY KEY (symbol, interval, time)
)
-- only: postgresql
PARTITION BY RANGE (time)
-- end
;

-- Values on the forming bar live for an hour and are rewritten every second: on plain PostgreSQL one small table, whose
-- old rows are deleted, is less work than a partition for each hour of each replayed year.
CREATE TABLE realtime_analytics (
    symbol text NOT NULL,
    interval text NOT NULL,
    time timestamptz NOT NULL,
    state text NOT NULL,
    version bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    sma_20 double precision,
    sma_50 double precision,
    sma_200 double precision,
    ema_12 double precision,
    ema_26 double precision,
    ema_50 double precision,
    ema_200 double precision,
    rsi_14 double precision,
    bbands_20_2_upper double precision,
    bbands_20_2_middle double precision,
    bbands_20_2_lower double precision,
    PRIMARY KEY (symbol, interval, time)
);

CREATE TABLE symbols (
    symbol text PRIMARY KEY,
    first_time timestamptz NOT NULL,
    last_time timestamptz NOT NULL,
    intervals text[] NOT NULL,
    last_price double precision
) WITH (fillfactor = 70);
COMMENT ON TABLE symbols IS 'Every symbol that has bars: kept with the bars, so that listing them reads no bars.';

CREATE TABLE splits (
    symbol text NOT NULL,
    time timestamptz NOT NULL,
    numerator double precision NOT NULL,
    denominator double precision NOT NULL,
    source text NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (symbol, time, source)
);

CREATE TABLE dividends (
    symbol text NOT NULL,
    time timestamptz NOT NULL,
    amount double precision NOT NULL,
    currency text,
    source text NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (symbol, time, source, amount)
);

CREATE TABLE coverage (
    feed text NOT NULL,
    interval text NOT NULL,
    time timestamptz NOT NULL,
    partition integer NOT NULL,
    expected integer NOT NULL,
    emitted integer NOT NULL,
    silent text[] NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (feed, interval, time, partition)
)
-- only: postgresql
PARTITION BY RANGE (time)
-- end
;
COMMENT ON TABLE coverage IS 'Intervals that are over: how many symbols were expected, how many have a bar, which have none.';

CREATE TABLE feeds (
    feed text NOT NULL,
    partition integer NOT NULL,
    state text NOT NULL,
    since timestamptz,
    reason text NOT NULL,
    late_ticks bigint NOT NULL,
    version bigint NOT NULL,
    sent_at timestamptz NOT NULL,
    PRIMARY KEY (feed, partition)
);

CREATE TABLE dead_letters (
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    row integer NOT NULL,
    from_topic text NOT NULL,
    from_partition integer NOT NULL,
    from_offset bigint NOT NULL,
    reason text NOT NULL,
    payload bytea NOT NULL,
    sent_at timestamptz NOT NULL,
    PRIMARY KEY (partition, "offset", row)
);
COMMENT ON TABLE dead_letters IS 'What could not be read, by the place of its record in market.deadletter.';

CREATE TABLE source_order (
    partition integer PRIMARY KEY,
    sources text[] NOT NULL
);
COMMENT ON TABLE source_order IS 'The order of sources in force, best first, as the log of that partition last said.';

CREATE TABLE retention (
    relation text PRIMARY KEY,
    keep interval
);
COMMENT ON TABLE retention IS 'How long rows are kept, from the later of their time and their arrival; null: for ever.';
INSERT INTO retention VALUES
    ('realtime_prices', '5 days'),
    ('intraday_ohlcv', '2 years'),
    ('historical_ohlcv', NULL),
    ('realtime_analytics', '1 hour'),
    ('intraday_analytics', '90 days'),
    ('daily_analytics', NULL),
    ('coverage', '2 years'),
    ('dead_letters', '30 days');

CREATE TABLE jobs (
    name text PRIMARY KEY,
    every interval NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    succeeded_at timestamptz,
    ok boolean,
    runs bigint NOT NULL DEFAULT 0,
    failures bigint NOT NULL DEFAULT 0,
    detail text NOT NULL DEFAULT ''
);
COMMENT ON TABLE jobs IS 'The schedule that the plant itself keeps, and how each job last went.';

-- only: postgresql
CREATE TABLE arrivals (
    relation text NOT NULL,
    starts_at timestamptz NOT NULL,
    partition integer NOT NULL,
    arrived_at timestamptz NOT NULL DEFAULT now(),
    dirty_from timestamptz,
    claimed_from timestamptz,
    PRIMARY KEY (relation, starts_at, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE arrivals IS 'When rows last came into each table partition, and from where on its roll-up is out of date.';

INSERT INTO jobs (name, every) VALUES
    ('retention', '15 minutes'),
    ('rollup_5m', '5 minutes'),
    ('rollup_1d', '1 hour'),
    ('compare', '1 hour');
-- end

-- only: timescaledb
-- The default index on time alone would cost COPY a third of its speed, and nothing reads by time alone.
SELECT create_hypertable('realtime_prices', by_range('time', INTERVAL '1 day'), create_default_indexes => false);
SELECT create_hypertable('intraday_ohlcv', by_range('time', INTERVAL '7 days'), create_default_indexes => false);
SELECT create_hypertable('historical_ohlcv', by_range('time', INTERVAL '3650 days'), create_default_indexes => false);
SELECT create_hypertable('realtime_analytics', by_range('time', INTERVAL '1 hour'), create_default_indexes => false);
SELECT create_hypertable('intraday_analytics', by_range('time', INTERVAL '7 days'), create_default_indexes => false);
SELECT create_hypertable('daily_analytics', by_range('time', INTERVAL '3650 days'), create_default_indexes => false);
SELECT create_hypertable('coverage', by_range('time', INTERVAL '7 days'), create_default_indexes => false);

INSERT INTO jobs (name, every) VALUES ('retention', '15 minutes'), ('compare', '1 hour');
-- end
