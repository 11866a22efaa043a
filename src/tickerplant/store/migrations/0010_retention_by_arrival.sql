-- On TimescaleDB, retention counts from the later of a row's time and its arrival, as on plain PostgreSQL. The creation of a
-- chunk is no arrival: ticks that are replayed later into an existing chunk would be dropped with it.

-- only: timescaledb
CREATE TABLE IF NOT EXISTS arrivals (
    relation text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    partition integer NOT NULL,
    arrived_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relation, starts_at, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE arrivals IS 'When rows of a range of time last arrived, from each partition of the log.';
INSERT INTO arrivals (relation, starts_at, ends_at, partition, arrived_at)
SELECT c.hypertable_name, c.range_start, c.range_end, 0, c.chunk_creation_time
FROM timescaledb_information.chunks c
JOIN retention r ON r.relation = c.hypertable_name
WHERE c.hypertable_schema = current_schema() AND r.keep IS NOT NULL AND c.chunk_creation_time IS NOT NULL
ON CONFLICT DO NOTHING;

-- Ticks of the last days are not compressed by a policy. Direct compression by COPY is independent of it.
SELECT remove_compression_policy('realtime_prices', if_exists => true);

-- Whether no rows of a range have arrived since a time.
CREATE FUNCTION tickerplant_is_expired(of text, low timestamptz, high timestamptz, before timestamptz) RETURNS boolean
LANGUAGE sql SET search_path FROM CURRENT AS $$
    SELECT high < before AND NOT EXISTS (SELECT FROM arrivals a
        WHERE a.relation = of AND a.starts_at < high AND a.ends_at > low AND a.arrived_at >= before)
$$;

CREATE OR REPLACE PROCEDURE tickerplant_retention(job_id integer, config jsonb)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    chunk record;
    unused boolean;
BEGIN
    -- The time of a forming value is the start of its bar, which may be long ago. Its row has its own arrival.
    DELETE FROM realtime_analytics t USING retention r
        WHERE r.relation = 'realtime_analytics' AND greatest(t."time", t.updated_at) < now() - r.keep;
    PERFORM set_config('lock_timeout', '2s', true);
    FOR chunk IN
        SELECT c.hypertable_name, c.chunk_schema, c.chunk_name, c.range_start, c.range_end, now() - r.keep AS before
        FROM timescaledb_information.chunks c
        JOIN retention r ON r.relation = c.hypertable_name
        WHERE c.hypertable_schema = current_schema()
            AND tickerplant_is_expired(c.hypertable_name, c.range_start, c.range_end, now() - r.keep)
    LOOP
        BEGIN
            -- A writer that is still in its transaction has recorded no arrival yet. With the lock, it has ended.
            EXECUTE format('LOCK TABLE %I.%I IN ACCESS EXCLUSIVE MODE', chunk.chunk_schema, chunk.chunk_name);
            CONTINUE WHEN NOT tickerplant_is_expired(
                chunk.hypertable_name, chunk.range_start, chunk.range_end, chunk.before);
            IF chunk.hypertable_name = 'realtime_analytics' THEN
                EXECUTE format('SELECT NOT EXISTS (SELECT FROM %I.%I)', chunk.chunk_schema, chunk.chunk_name) INTO unused;
                CONTINUE WHEN NOT unused;
            END IF;
            PERFORM drop_chunks(format('%I', chunk.hypertable_name)::regclass,
                older_than => chunk.range_end, newer_than => chunk.range_start);
        EXCEPTION WHEN lock_not_available THEN
            NULL;  -- in use; the next run drops it
        END;
    END LOOP;
    DELETE FROM arrivals a USING retention r
        WHERE r.relation = a.relation AND greatest(a.ends_at, a.arrived_at) < now() - r.keep;
END
$$;
-- end
