-- `tickerplant_make_chunks` returns the chunks that contain the times, so that a writer asks once per chunk, not once per
-- day. It reads the catalogue once, because a view of it takes as long as the creation of a chunk.

-- only: timescaledb
DROP FUNCTION tickerplant_make_chunks(text, timestamptz[]);
CREATE FUNCTION tickerplant_make_chunks(of text, times timestamptz[])
RETURNS TABLE (starts_at timestamptz, ends_at timestamptz)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    rule record;
    step interval;
    old_to timestamptz;
    at timestamptz;
    low timestamptz;
    high timestamptz;
    lows timestamptz[];
    highs timestamptz[];
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
    SELECT coalesce(array_agg(c.range_start), '{}'), coalesce(array_agg(c.range_end), '{}') INTO lows, highs
        FROM timescaledb_information.chunks AS c
        WHERE c.hypertable_schema = current_schema() AND c.hypertable_name = of;
    FOR at IN SELECT DISTINCT t FROM unnest(times) AS t ORDER BY t LOOP
        CONTINUE WHEN at < done_to;
        SELECT c.low, c.high INTO low, high FROM unnest(lows, highs) AS c (low, high) WHERE c.low <= at AND c.high > at;
        IF NOT FOUND THEN
            SELECT max(c.high) FILTER (WHERE c.high <= at), min(c.low) FILTER (WHERE c.low > at)
                INTO low, high FROM unnest(lows, highs) AS c (low, high);
            IF at < old_to THEN
                low := greatest(low, time_bucket(rule.length, at));
                high := least(high, time_bucket(rule.length, at) + rule.length, old_to);
            ELSE
                WHILE low + step <= at AND at - low <= 7 * step LOOP
                    PERFORM tickerplant_make_chunk(of, low, low + step);
                    lows := lows || low;
                    highs := highs || low + step;
                    low := low + step;
                END LOOP;
                low := greatest(low, time_bucket(step, at, TIMESTAMPTZ '1970-01-01 00:00Z'), old_to);
                high := least(high, time_bucket(step, at, TIMESTAMPTZ '1970-01-01 00:00Z') + step);
            END IF;
            PERFORM tickerplant_make_chunk(of, low, high);
            lows := lows || low;
            highs := highs || high;
        END IF;
        done_to := high;
        starts_at := low;
        ends_at := high;
        RETURN NEXT;
    END LOOP;
END
$$;
-- end
