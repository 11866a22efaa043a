-- On TimescaleDB, rows are compressed soon after the age in `compression`. A chunk is compressed when its end has that age,
-- so chunks of recent rows are short. Chunks of older rows are long, and compression merges adjacent short chunks.

-- only: timescaledb
CREATE TABLE compression (
    relation text PRIMARY KEY,
    after interval NOT NULL,
    length interval NOT NULL
);
COMMENT ON TABLE compression IS 'When rows are compressed, and how long a chunk of compressed rows may become.';
INSERT INTO compression VALUES
    ('intraday_ohlcv', '3 days', '56 days'),
    ('intraday_analytics', '7 days', '28 days'),
    ('historical_ohlcv', '7 days', '3600 days'),
    ('daily_analytics', '30 days', '3600 days'),
    ('coverage', '7 days', '56 days');

-- Creates chunks for rows of these times, where TimescaleDB would create too many or leave gaps:
-- 1. Rows older than `after` share one chunk of at most `length`. The policy compresses it in its next run.
-- 2. Between recent chunks, days without rows have an empty chunk, because only adjacent chunks can be merged.
-- TimescaleDB itself creates all other chunks. Times that have a chunk are skipped.
CREATE FUNCTION tickerplant_make_chunks(of text, times timestamptz[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    rule record;
    step interval;
    old_to timestamptz;
    at timestamptz;
    low timestamptz;
    high timestamptz;
    done_to timestamptz := '-infinity';
BEGIN
    SELECT c.after, c.length INTO rule FROM compression AS c WHERE c.relation = of;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(1953063787, 2);
    old_to := time_bucket('1 day', now() - rule.after);
    SELECT d.time_interval INTO step FROM timescaledb_information.dimensions AS d
        WHERE d.hypertable_schema = current_schema() AND d.hypertable_name = of;
    LOOP
        SELECT min(t) INTO at FROM unnest(times) AS t
            WHERE t >= done_to AND NOT EXISTS (SELECT FROM timescaledb_information.chunks AS c
                WHERE c.hypertable_schema = current_schema() AND c.hypertable_name = of
                    AND c.range_start <= t AND c.range_end > t);
        EXIT WHEN at IS NULL;
        SELECT max(c.range_end) FILTER (WHERE c.range_end <= at), min(c.range_start) FILTER (WHERE c.range_start > at)
            INTO low, high FROM timescaledb_information.chunks AS c
            WHERE c.hypertable_schema = current_schema() AND c.hypertable_name = of;
        IF at < old_to THEN
            low := greatest(low, time_bucket(rule.length, at));
            high := least(high, time_bucket(rule.length, at) + rule.length, old_to);
            PERFORM tickerplant_make_chunk(of, low, high);
            done_to := high;
        ELSE
            WHILE low + step <= at AND at - low <= 7 * step LOOP
                PERFORM tickerplant_make_chunk(of, low, low + step);
                low := low + step;
            END LOOP;
            done_to := at + interval '1 microsecond';
        END IF;
    END LOOP;
END
$$;

CREATE FUNCTION tickerplant_make_chunk(of text, low timestamptz, high timestamptz) RETURNS void
LANGUAGE sql SET search_path FROM CURRENT AS $$
    SELECT _timescaledb_functions.create_chunk(format('%I', of)::regclass, jsonb_build_object('time', jsonb_build_array(
        (extract(epoch FROM low) * 1000000)::bigint, (extract(epoch FROM high) * 1000000)::bigint)));
$$;

SELECT set_chunk_time_interval('intraday_ohlcv', INTERVAL '1 day');
SELECT set_chunk_time_interval('intraday_analytics', INTERVAL '1 day');
SELECT set_chunk_time_interval('historical_ohlcv', INTERVAL '30 days');
SELECT set_chunk_time_interval('daily_analytics', INTERVAL '30 days');

-- The order begins with the time, so that merged chunks need no new compression.
ALTER TABLE intraday_ohlcv SET (timescaledb.compress, timescaledb.compress_segmentby = 'symbol, "interval"',
    timescaledb.compress_orderby = 'time', timescaledb.compress_chunk_time_interval = '56 days');
ALTER TABLE intraday_analytics SET (timescaledb.compress, timescaledb.compress_segmentby = 'symbol, "interval"',
    timescaledb.compress_orderby = 'time', timescaledb.compress_chunk_time_interval = '28 days');
ALTER TABLE historical_ohlcv SET (timescaledb.compress, timescaledb.compress_segmentby = 'symbol, "interval"',
    timescaledb.compress_orderby = 'time', timescaledb.compress_chunk_time_interval = '3600 days');
ALTER TABLE daily_analytics SET (timescaledb.compress, timescaledb.compress_segmentby = 'symbol, "interval"',
    timescaledb.compress_orderby = 'time', timescaledb.compress_chunk_time_interval = '3600 days');
ALTER TABLE coverage SET (timescaledb.compress, timescaledb.compress_segmentby = 'feed, "interval"',
    timescaledb.compress_orderby = 'time, partition', timescaledb.compress_chunk_time_interval = '56 days');

SELECT remove_compression_policy(relation::regclass, if_exists => true) FROM compression;
SELECT add_compression_policy(relation::regclass, after, schedule_interval => INTERVAL '1 hour') FROM compression;

-- Long chunks that are not over yet would keep old rows uncompressed: for years, where they have ten years.
CREATE TEMPORARY TABLE long_chunks ON COMMIT DROP AS
SELECT c.hypertable_name AS relation, c.range_start, c.range_end
FROM timescaledb_information.chunks AS c
JOIN compression AS r ON r.relation = c.hypertable_name
JOIN timescaledb_information.dimensions AS d
    ON d.hypertable_schema = c.hypertable_schema AND d.hypertable_name = c.hypertable_name
WHERE c.hypertable_schema = current_schema() AND c.range_end - c.range_start > d.time_interval
    AND c.range_end > now() - r.after;

DO $$
DECLARE
    piece record;
BEGIN
    FOR piece IN SELECT * FROM long_chunks ORDER BY relation, range_start LOOP
        EXECUTE format('CREATE TEMPORARY TABLE moved_rows ON COMMIT DROP AS SELECT * FROM %I WHERE "time" >= %L AND "time" < %L',
            piece.relation, piece.range_start, piece.range_end);
        PERFORM drop_chunks(format('%I', piece.relation)::regclass, older_than => piece.range_end,
            newer_than => piece.range_start);
        PERFORM tickerplant_make_chunks(piece.relation,
            (SELECT array_agg(DISTINCT time_bucket('1 day', "time")) FROM moved_rows));
        EXECUTE format('INSERT INTO %I SELECT * FROM moved_rows ORDER BY "time"', piece.relation);
        DROP TABLE moved_rows;
    END LOOP;
END
$$;
-- end
