-- Second opinions on the bars: 5 m from ticks, and days (UTC) from 1 m bars. They know nothing of revisions, cancels,
-- corrections and sessions.

-- only: timescaledb
CREATE MATERIALIZED VIEW ohlcv_5m_rollup WITH (timescaledb.continuous) AS
SELECT
    time_bucket(INTERVAL '5 minutes', time) AS time,
    symbol,
    source,
    first(price, time) FILTER (WHERE flags & 1 = 0) AS open,
    max(price) FILTER (WHERE flags & 1 = 0) AS high,
    min(price) FILTER (WHERE flags & 1 = 0) AS low,
    last(price, time) FILTER (WHERE flags & 1 = 0) AS close,
    coalesce(sum(size) FILTER (WHERE flags & 2 = 0), 0) AS volume,
    count(*) AS trades
FROM realtime_prices
WHERE flags & 12 = 0
GROUP BY 1, 2, 3
WITH NO DATA;

CREATE MATERIALIZED VIEW ohlcv_1d_rollup WITH (timescaledb.continuous) AS
SELECT
    time_bucket(INTERVAL '1 day', time) AS time,
    symbol,
    source,
    first(open, time) FILTER (WHERE open IS NOT NULL) AS open,
    max(high) AS high,
    min(low) AS low,
    last(close, time) FILTER (WHERE close IS NOT NULL) AS close,
    sum(volume) AS volume,
    sum(trades)::bigint AS trades
FROM intraday_ohlcv
WHERE interval = '1m' AND state = 'final'
GROUP BY 1, 2, 3
WITH NO DATA;

-- No start: what is out of date is known from the invalidation log, and a replay of 2012 is out of date in 2012.
SELECT add_continuous_aggregate_policy('ohlcv_5m_rollup',
    start_offset => NULL, end_offset => INTERVAL '5 minutes', schedule_interval => INTERVAL '5 minutes');
SELECT add_continuous_aggregate_policy('ohlcv_1d_rollup',
    start_offset => NULL, end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '1 hour');
-- end

-- only: postgresql
CREATE TABLE ohlcv_5m_rollup (
    time timestamptz NOT NULL,
    symbol text NOT NULL,
    source text NOT NULL,
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision,
    trades bigint,
    PRIMARY KEY (symbol, time, source)
);
CREATE INDEX ohlcv_5m_rollup_time ON ohlcv_5m_rollup USING brin (time);
CREATE TABLE ohlcv_1d_rollup (
    time timestamptz NOT NULL,
    symbol text NOT NULL,
    source text NOT NULL,
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision,
    trades bigint,
    PRIMARY KEY (symbol, time, source)
);
INSERT INTO retention VALUES ('ohlcv_5m_rollup', '90 days');
-- end
