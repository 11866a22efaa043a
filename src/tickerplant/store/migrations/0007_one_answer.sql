-- Of each instant one answer counts, the newest. Those that it hides are cut away, and neighbours that say the same are one
-- row: after months a symbol has a handful of rows, not one for each request. Answers have an arrival, as bars do.

ALTER TABLE answers DROP CONSTRAINT answers_pkey;
ALTER TABLE answers ADD COLUMN arrived_at timestamptz NOT NULL DEFAULT now();

CREATE TEMPORARY TABLE answers_now AS
WITH edges AS (
    SELECT symbol, interval, from_time AS at FROM answers
    UNION
    SELECT symbol, interval, to_time FROM answers
), pieces AS (
    SELECT symbol, interval, at AS from_time, lead(at) OVER (PARTITION BY symbol, interval ORDER BY at) AS to_time FROM edges
), newest AS (
    SELECT DISTINCT ON (p.symbol, p.interval, p.from_time)
        p.symbol, p.interval, p.from_time, p.to_time, a.source, a.verdict, a.note, a.again_at, a.version
    FROM pieces AS p
    JOIN answers AS a ON a.symbol = p.symbol AND a.interval = p.interval
        AND a.from_time <= p.from_time AND a.to_time >= p.to_time
    WHERE p.to_time IS NOT NULL
    ORDER BY p.symbol, p.interval, p.from_time, a.version DESC, a.from_time DESC, a.source
), begins AS (
    SELECT *, lag(to_time) OVER said IS DISTINCT FROM from_time AS begins
    FROM newest
    WINDOW said AS (PARTITION BY symbol, interval, source, verdict, note, again_at ORDER BY from_time)
), runs AS (
    SELECT *, count(*) FILTER (WHERE begins) OVER said AS run
    FROM begins
    WINDOW said AS (PARTITION BY symbol, interval, source, verdict, note, again_at ORDER BY from_time)
)
SELECT symbol, interval, min(from_time) AS from_time, max(to_time) AS to_time, source, verdict, note, again_at,
    max(version) AS version
FROM runs
GROUP BY symbol, interval, source, verdict, note, again_at, run;

DELETE FROM answers;
INSERT INTO answers (symbol, interval, from_time, to_time, source, verdict, note, again_at, version)
SELECT symbol, interval, from_time, to_time, source, verdict, note, again_at, version FROM answers_now;
DROP TABLE answers_now;

ALTER TABLE answers ADD PRIMARY KEY (symbol, interval, from_time);
COMMENT ON TABLE answers IS 'What vendors said of stretches that they were asked for, beyond the bars: the newest of each instant, whoever said it.';
COMMENT ON COLUMN answers.arrived_at IS 'When the row was last written; it is kept from the later of this and to_time.';
