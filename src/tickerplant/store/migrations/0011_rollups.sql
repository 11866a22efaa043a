-- The roll-ups keep their rows when retention drops the ticks or bars that they were made of. The plant recomputes only the
-- ranges of time in which rows arrived. `arrivals` also has the ranges that are to be compared with bars.

-- only: timescaledb
CREATE TABLE IF NOT EXISTS arrivals (
    relation text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    partition integer NOT NULL,
    arrived_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relation, starts_at, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE arrivals IS 'When rows of a range of time last arrived, and from where on its roll-up is out of date.';
ALTER TABLE arrivals ADD COLUMN dirty_from timestamptz;
ALTER TABLE arrivals ADD COLUMN claimed_from timestamptz;
-- end
ALTER TABLE arrivals ADD COLUMN changed_from timestamptz;
ALTER TABLE arrivals ADD COLUMN comparing_from timestamptz;
COMMENT ON COLUMN arrivals.changed_from IS 'Earliest time of the rows that arrived since the last comparison; null if none did.';
COMMENT ON COLUMN arrivals.comparing_from IS 'Start of the range that a comparison has claimed.';

-- only: postgresql
ALTER TABLE ohlcv_5m_rollup ADD COLUMN corrections bigint NOT NULL DEFAULT 0;
ALTER TABLE ohlcv_5m_rollup ADD COLUMN ordered boolean NOT NULL DEFAULT false;
ALTER TABLE ohlcv_5m_rollup ADD COLUMN arrived_at timestamptz NOT NULL DEFAULT now();
-- end

-- only: timescaledb
-- Ticks of one instant are ordered by arrival, so open and close are those of the bars. The key is bytes, because first()
-- needs one value that a partial aggregate can store. All times of a bucket have the same sign.
DROP MATERIALIZED VIEW ohlcv_5m_rollup;
CREATE MATERIALIZED VIEW ohlcv_5m_rollup WITH (timescaledb.continuous) AS
SELECT
    time_bucket(INTERVAL '5 minutes', time) AS time,
    symbol,
    source,
    first(price, timestamptz_send(time) || int8send(version) || int4send("row"))
        FILTER (WHERE flags & 13 = 0) AS open,
    max(price) FILTER (WHERE flags & 13 = 0) AS high,
    min(price) FILTER (WHERE flags & 13 = 0) AS low,
    last(price, timestamptz_send(time) || int8send(version) || int4send("row"))
        FILTER (WHERE flags & 13 = 0) AS close,
    coalesce(sum(size) FILTER (WHERE flags & 14 = 0), 0) AS volume,
    count(*) FILTER (WHERE flags & 14 = 0) AS trades,
    count(*) FILTER (WHERE flags & 12 <> 0) AS corrections,
    bool_and(version > 0) AS ordered
FROM realtime_prices
GROUP BY 1, 2, 3
HAVING count(*) FILTER (WHERE flags & 12 = 0) > 0
WITH NO DATA;
SELECT remove_continuous_aggregate_policy('ohlcv_1d_rollup');
INSERT INTO jobs (name, every) VALUES ('rollup_5m', '5 minutes'), ('rollup_1d', '1 hour');

-- The plant compresses them: a compression policy needs a refresh policy.
ALTER MATERIALIZED VIEW ohlcv_5m_rollup SET (timescaledb.compress = true);
ALTER MATERIALIZED VIEW ohlcv_1d_rollup SET (timescaledb.compress = true);
INSERT INTO retention VALUES ('ohlcv_5m_rollup', '90 days') ON CONFLICT DO NOTHING;

-- All stored ticks and bars are rolled up once.
INSERT INTO arrivals (relation, starts_at, ends_at, partition, dirty_from)
SELECT DISTINCT c.hypertable_name, s.at, s.at + r.length, 0, s.at
FROM (VALUES ('realtime_prices', INTERVAL '1 day'), ('intraday_ohlcv', INTERVAL '7 days')) AS r (relation, length)
JOIN timescaledb_information.chunks AS c ON c.hypertable_name = r.relation AND c.hypertable_schema = current_schema(),
    generate_series(time_bucket(r.length, c.range_start, TIMESTAMPTZ '1970-01-01 00:00Z'),
        c.range_end - INTERVAL '1 microsecond', r.length) AS s (at)
ON CONFLICT (relation, starts_at, partition) DO UPDATE SET dirty_from = excluded.dirty_from;
-- end
COMMENT ON COLUMN retention.keep IS 'Age at which rows are dropped, from the later of their time and their arrival.';
