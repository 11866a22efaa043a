-- `tickerplant_make_chunks` also creates the chunks of recent rows, under its lock and before the rows are written. A chunk
-- that TimescaleDB creates within one writer's transaction could overlap the chunk that another writer creates.

-- only: timescaledb
CREATE OR REPLACE FUNCTION tickerplant_make_chunks(of text, times timestamptz[]) RETURNS void
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
        ELSE
            WHILE low + step <= at AND at - low <= 7 * step LOOP
                PERFORM tickerplant_make_chunk(of, low, low + step);
                low := low + step;
            END LOOP;
            low := greatest(low, time_bucket(step, at, TIMESTAMPTZ '1970-01-01 00:00Z'), old_to);
            high := least(high, time_bucket(step, at, TIMESTAMPTZ '1970-01-01 00:00Z') + step);
        END IF;
        PERFORM tickerplant_make_chunk(of, low, high);
        done_to := high;
    END LOOP;
END
$$;

-- Another writer may have inserted rows without this function. Its chunk remains, and TimescaleDB creates the others.
CREATE OR REPLACE FUNCTION tickerplant_make_chunk(of text, low timestamptz, high timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM _timescaledb_functions.create_chunk(format('%I', of)::regclass, jsonb_build_object('time', jsonb_build_array(
        (extract(epoch FROM low) * 1000000)::bigint, (extract(epoch FROM high) * 1000000)::bigint)));
EXCEPTION WHEN SQLSTATE 'TS503' THEN
    RAISE WARNING 'the chunk of % from % to % overlaps another one', of, low, high;
END
$$;
-- end
