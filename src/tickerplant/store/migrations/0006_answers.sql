-- What vendors answered when they were asked for bars: why those that are missing are missing.

CREATE TABLE answers (
    symbol text NOT NULL,
    interval text NOT NULL,
    from_time timestamptz NOT NULL,
    to_time timestamptz NOT NULL,
    source text NOT NULL,
    verdict text NOT NULL,
    note text,
    again_at timestamptz,
    version bigint NOT NULL,
    PRIMARY KEY (symbol, interval, from_time, to_time, source)
);
COMMENT ON TABLE answers IS 'What vendors said of stretches that they were asked for, beyond the bars: the newest of each counts.';
COMMENT ON COLUMN answers.verdict IS 'answered, no_data, quota, outage, not_offered or differs.';

INSERT INTO retention VALUES ('answers', '2 years');

ALTER TABLE coverage ADD COLUMN whole boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN coverage.whole IS 'Whether the feed was up for all of the interval: then a silent symbol was not traded.';
