-- On TimescaleDB: columns for what has aged, and the retention job. Plain PostgreSQL has its retention in the plant.

-- only: timescaledb
-- Ticks that came by direct-to-columnstore COPY are columns from the start; the policy takes the others after a day.
ALTER TABLE realtime_prices SET (timescaledb.compress,
    timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'time');
SELECT add_compression_policy('realtime_prices', INTERVAL '1 day');
ALTER TABLE intraday_ohlcv SET (timescaledb.compress,
    timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'interval, time');
SELECT add_compression_policy('intraday_ohlcv', INTERVAL '3 days');
ALTER TABLE historical_ohlcv SET (timescaledb.compress,
    timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'interval, time');
SELECT add_compression_policy('historical_ohlcv', INTERVAL '7 days');
ALTER TABLE intraday_analytics SET (timescaledb.compress,
    timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'interval, time');
SELECT add_compression_policy('intraday_analytics', INTERVAL '7 days');
ALTER TABLE daily_analytics SET (timescaledb.compress,
    timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'interval, time');
SELECT add_compression_policy('daily_analytics', INTERVAL '30 days');

-- Kept from the later of a row's time and its arrival. A policy by drop_created_before fails when it runs on a hypertable,
-- and drop_chunks refuses older_than together with created_before, so the job looks at each chunk.
CREATE PROCEDURE tickerplant_retention(job_id integer, config jsonb) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    chunk record;
BEGIN
    FOR chunk IN
        SELECT c.hypertable_schema, c.hypertable_name, c.range_start, c.range_end
        FROM timescaledb_information.chunks c
        JOIN retention r ON r.relation = c.hypertable_name
        WHERE c.hypertable_schema = current_schema() AND r.keep IS NOT NULL
            AND greatest(c.range_end, c.chunk_creation_time) < now() - r.keep
    LOOP
        PERFORM drop_chunks(format('%I.%I', chunk.hypertable_schema, chunk.hypertable_name)::regclass,
            older_than => chunk.range_end, newer_than => chunk.range_start);
    END LOOP;
END
$$;
SELECT add_job('tickerplant_retention', INTERVAL '15 minutes');
-- end
