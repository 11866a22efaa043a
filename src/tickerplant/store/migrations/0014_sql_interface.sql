-- SQL is an interface: every table and column has a comment, and four views answer the common questions. docs/sql.md
-- describes them.

CREATE VIEW ticks AS
SELECT
    "time", symbol, price, size, source, trade_id,
    CASE WHEN flags & 4 <> 0 THEN 'cancel' WHEN flags & 8 <> 0 THEN 'correction' ELSE 'trade' END AS kind,
    flags & 1 <> 0 AS no_ohlc,
    flags & 2 <> 0 AS no_volume,
    flags & 16 <> 0 AS extended,
    flags & 32 <> 0 AS closing_auction,
    flags & 64 <> 0 AS size_unknown,
    flags, received_at, version, "row"
FROM realtime_prices;

CREATE VIEW bars AS
SELECT symbol, "interval", "time", open, high, low, close, volume, vwap, trades, state, complete, history, revision,
    version, reason, source, published_at
FROM intraday_ohlcv
UNION ALL
SELECT symbol, "interval", "time", open, high, low, close, volume, vwap, trades, state, complete, history, revision,
    version, reason, source, published_at
FROM historical_ohlcv;

-- A row as JSON contains the columns of indicators that are added later. A view with a list of columns would not.
CREATE VIEW indicators AS
SELECT a.symbol, a."interval", a."time", v.key AS indicator, v.value::double precision AS value, a.state, a.version
FROM intraday_analytics AS a, jsonb_each_text(to_jsonb(a) - '{symbol,interval,time,state,version}'::text[]) AS v
WHERE v.value IS NOT NULL
UNION ALL
SELECT a.symbol, a."interval", a."time", v.key, v.value::double precision, a.state, a.version
FROM daily_analytics AS a, jsonb_each_text(to_jsonb(a) - '{symbol,interval,time,state,version}'::text[]) AS v
WHERE v.value IS NOT NULL
UNION ALL
-- Values of a forming bar remain for an hour after their last change, also when the bar has closed.
SELECT a.symbol, a."interval", a."time", v.key, v.value::double precision, a.state, a.version
FROM realtime_analytics AS a,
    jsonb_each_text(to_jsonb(a) - '{symbol,interval,time,state,version,updated_at}'::text[]) AS v
WHERE v.value IS NOT NULL
    AND NOT EXISTS (SELECT FROM intraday_analytics AS c
        WHERE c.symbol = a.symbol AND c."interval" = a."interval" AND c."time" = a."time")
    AND NOT EXISTS (SELECT FROM daily_analytics AS c
        WHERE c.symbol = a.symbol AND c."interval" = a."interval" AND c."time" = a."time");

-- The recursion reads one index entry per symbol, not every tick. A cancelled trade has no price. The last correction of a
-- trade replaces its price and size.
CREATE VIEW latest_prices AS
WITH RECURSIVE names (symbol) AS (
    (SELECT t.symbol FROM realtime_prices AS t ORDER BY t.symbol LIMIT 1)
    UNION ALL
    SELECT (SELECT t.symbol FROM realtime_prices AS t WHERE t.symbol > n.symbol ORDER BY t.symbol LIMIT 1)
    FROM names AS n WHERE n.symbol IS NOT NULL
)
SELECT n.symbol, p."time", p.price, p.size, p.source, p.trade_id, p.received_at
FROM names AS n, LATERAL (
    SELECT t."time", coalesce(c.price, t.price) AS price, coalesce(c.size, t.size) AS size, t.source, t.trade_id,
        coalesce(c.received_at, t.received_at) AS received_at
    FROM realtime_prices AS t
    LEFT JOIN LATERAL (
        SELECT k.price, k.size, k.received_at, k.flags FROM realtime_prices AS k
        WHERE t.trade_id IS NOT NULL AND k.symbol = t.symbol AND k."time" = t."time" AND k.trade_id = t.trade_id
            AND k.source = t.source AND k.flags & 12 <> 0
        ORDER BY k.flags & 4 DESC, k.version DESC, k."row" DESC LIMIT 1
    ) AS c ON true
    WHERE t.symbol = n.symbol AND t.flags & 13 = 0 AND coalesce(c.flags, 0) & 4 = 0
    ORDER BY t."time" DESC, t.version DESC, t."row" DESC LIMIT 1
) AS p
WHERE n.symbol IS NOT NULL;

CREATE TEMPORARY TABLE column_comments (relation text, name text, text text) ON COMMIT DROP;
INSERT INTO column_comments (relation, name, text)
SELECT relation, name, text FROM unnest('{realtime_prices,ticks}'::text[]) AS relation, (VALUES
    (NULL, 'Trades as feeds sent them, with their cancels and corrections. Sort by time, version, row.'),
    ('time', 'Time of the trade. A cancel or correction has the time of its trade.'),
    ('symbol', 'Name of the instrument.'),
    ('price', 'Price as traded. A correction has the new price.'),
    ('size', 'Count of units. 0 if unknown. A correction has the new size.'),
    ('source', 'Vendor or file that reported the row.'),
    ('trade_id', 'Id of the trade. A cancel or correction has the id of its trade. Null if the feed has no ids.'),
    ('flags', 'Sum of: 1 sets no price of a bar; 2 the size does not count; 4 cancel; 8 correction; 16 outside regular hours; 32 closing auction; 64 size unknown. 0 is an ordinary trade. The view ticks has them as columns.'),
    ('received_at', 'Time at which the feed received the row.'),
    ('version', 'Position of the raw record: log generation * 2^40 + offset. 0 if unknown.'),
    ('row', 'Row within the raw record. The order of arrival is (version, row).'),
    ('kind', 'trade, cancel or correction.'),
    ('no_ohlc', 'The trade sets no open, high, low or close: odd lots, average prices, late reports. Its size counts.'),
    ('no_volume', 'The size does not count: a duplicate report of volume, or an indication of a price.'),
    ('extended', 'The trade is outside regular hours.'),
    ('closing_auction', 'The trade is of the closing auction. It belongs to the daily bar, also after the close.'),
    ('size_unknown', 'The size is unknown, so that the bars of the trade are not complete.')
) AS c (name, text);
INSERT INTO column_comments (relation, name, text)
SELECT relation, name, text FROM unnest('{intraday_ohlcv,historical_ohlcv,bars}'::text[]) AS relation, (VALUES
    ('symbol', 'Name of the instrument.'),
    ('interval', '1m, 5m, 1d, or an amount of trading: 100t (trades), 10000v (volume), 1000000d (turnover).'),
    ('time', 'Start of the bar. For a daily bar, 00:00 UTC of the date of the session.'),
    ('open', 'First price, as traded. Null if no trade set a price.'),
    ('high', 'Highest price, as traded. Null if no trade set a price.'),
    ('low', 'Lowest price, as traded. Null if no trade set a price.'),
    ('close', 'Last price, as traded. Null if no trade set a price.'),
    ('volume', 'Sum of the sizes, as traded.'),
    ('vwap', 'Average price, weighted by size. Null without volume, or if unknown.'),
    ('trades', 'Count of the trades. Null if unknown.'),
    ('state', 'forming: the interval is not over, and the row changes every second. final: the bar is closed, and changes only by a revision. A withdrawn bar has no row.'),
    ('complete', 'True if the feed covered the whole interval and every trade has a known size. False: trades may be missing.'),
    ('history', 'True if the bar came from history: it competes with other sources by completeness and rank.'),
    ('revision', 'Count of changes after the bar closed. 0: none.'),
    ('version', 'Position of the raw record that caused the row: log generation * 2^40 + offset. The greatest version of a bar wins.'),
    ('reason', 'Cause of this version: ticks, parts (finer bars), vendor, backfill, official, file, late, cancel, correction, auction, source, down, cut or rebuild.'),
    ('source', 'Vendor or file of the bar, or of its trades.'),
    ('published_at', 'Time at which this version was published.')
) AS c (name, text);
INSERT INTO column_comments (relation, name, text)
SELECT relation, name, text
FROM unnest('{intraday_analytics,daily_analytics,realtime_analytics,indicators}'::text[]) AS relation, (VALUES
    ('symbol', 'Name of the instrument.'),
    ('interval', 'Interval of the bar.'),
    ('time', 'Start of the bar. For a daily bar, 00:00 UTC of the date of the session.'),
    ('state', 'State of the bar: forming or final.'),
    ('version', 'Position of the raw record that caused the values: log generation * 2^40 + offset. The greatest version wins.'),
    ('updated_at', 'Time of the last change. The row is kept for an hour after it.'),
    ('indicator', 'Name of the column in intraday_analytics or daily_analytics, such as rsi_14.'),
    ('value', 'Value for the bar, computed from prices adjusted for splits.')
) AS c (name, text);
INSERT INTO column_comments (relation, name, text)
SELECT relation, name, text FROM unnest('{ohlcv_5m_rollup,ohlcv_1d_rollup}'::text[]) AS relation, (VALUES
    ('time', 'Start of the interval. A day is a UTC day.'),
    ('symbol', 'Name of the instrument.'),
    ('source', 'Source of the ticks or bars.'),
    ('open', 'First price.'),
    ('high', 'Highest price.'),
    ('low', 'Lowest price.'),
    ('close', 'Last price.'),
    ('volume', 'Sum of the sizes.'),
    ('trades', 'Count of the trades.'),
    ('corrections', 'Count of cancels and corrections, which the row does not apply.'),
    ('ordered', 'True if the order of arrival of all ticks is known.'),
    ('arrived_at', 'Time at which the row was last written.')
) AS c (name, text);
INSERT INTO column_comments (relation, name, text) VALUES
    ('bars', NULL, 'All stored bars, of every interval: intraday_ohlcv and historical_ohlcv. Prices are as traded.'),
    ('intraday_ohlcv', NULL, 'The newest version of each bar of 1m, 5m and activity intervals. Prices are as traded.'),
    ('historical_ohlcv', NULL, 'The newest version of each daily bar. Prices are as traded.'),
    ('intraday_analytics', NULL, 'Indicator values of closed bars of 1m, 5m and activity intervals, one column each.'),
    ('daily_analytics', NULL, 'Indicator values of closed daily bars, one column each.'),
    ('realtime_analytics', NULL, 'Indicator values of forming bars, one column each. Rows remain for an hour after their last change.'),
    ('indicators', NULL, 'All indicator values, one row each: of closed bars, and of forming bars that have not closed.'),
    ('ohlcv_5m_rollup', NULL, 'Check roll-up: 5-minute bars built from stored ticks, to check published bars. Not adjusted, not revised.'),
    ('ohlcv_1d_rollup', NULL, 'Check roll-up: UTC days built from stored 1m bars, to check published bars.'),
    ('latest_prices', NULL, 'The newest trade of each symbol that sets a price, after cancels and corrections, of the ticks that are still stored.'),
    ('latest_prices', 'symbol', 'Name of the instrument.'),
    ('latest_prices', 'time', 'Time of the trade.'),
    ('latest_prices', 'price', 'Price as traded, after corrections.'),
    ('latest_prices', 'size', 'Count of units, after corrections. 0 if unknown.'),
    ('latest_prices', 'source', 'Vendor or file that reported the trade.'),
    ('latest_prices', 'trade_id', 'Id of the trade. Null if the feed has no ids.'),
    ('latest_prices', 'received_at', 'Time at which the feed received the trade, or its last correction.'),
    ('plant', 'one', 'Always true: the table has one row.'),
    ('plant', 'log_id', 'Id of the log.'),
    ('plant', 'generation', 'Generation of the log. tickerplant adopt increments it.'),
    ('plant', 'bound_at', 'Time at which the store was bound to the log.'),
    ('positions', 'topic', 'Topic of the log.'),
    ('positions', 'partition', 'Partition of the topic.'),
    ('positions', 'log_id', 'Id of the log.'),
    ('positions', 'generation', 'Generation of the log.'),
    ('positions', 'updated_at', 'Time of the last change.'),
    ('symbols', NULL, 'Every symbol with closed bars. The table changes with the bars, so that a list of symbols reads no bars.'),
    ('symbols', 'symbol', 'Name of the instrument.'),
    ('symbols', 'first_time', 'Start of the first closed bar.'),
    ('symbols', 'last_time', 'Start of the last closed bar.'),
    ('symbols', 'intervals', 'Intervals with bars.'),
    ('symbols', 'last_price', 'Close of the last closed bar.'),
    ('splits', NULL, 'Splits, as sources report them. If several sources report a session, the greatest version applies.'),
    ('splits', 'symbol', 'Name of the instrument.'),
    ('splits', 'time', '00:00 UTC of the first session at the new price.'),
    ('splits', 'numerator', 'Count of new shares: 4 for a split of 4 for 1.'),
    ('splits', 'denominator', 'Count of old shares: 1 for a split of 4 for 1.'),
    ('splits', 'source', 'Vendor, or the source of entries by tickerplant action.'),
    ('splits', 'version', 'Position of the raw record: log generation * 2^40 + offset.'),
    ('dividends', NULL, 'Dividends, as sources report them. If several sources report an ex-date, the source of the greatest version applies.'),
    ('dividends', 'symbol', 'Name of the instrument.'),
    ('dividends', 'time', '00:00 UTC of the ex-date.'),
    ('dividends', 'amount', 'Amount per share, as paid.'),
    ('dividends', 'currency', 'Currency of the amount. Null if unknown.'),
    ('dividends', 'source', 'Vendor, or the source of entries by tickerplant action.'),
    ('dividends', 'version', 'Position of the raw record: log generation * 2^40 + offset.'),
    ('coverage', 'feed', 'Name of the feed.'),
    ('coverage', 'interval', 'Length of the interval.'),
    ('coverage', 'time', 'Start of the interval.'),
    ('coverage', 'partition', 'Partition of the log.'),
    ('coverage', 'expected', 'Count of symbols that were expected, by subscription and calendar.'),
    ('coverage', 'emitted', 'Count of expected symbols with a bar.'),
    ('coverage', 'silent', 'Expected symbols without a bar.'),
    ('coverage', 'whole', 'True if the feed was up for the whole interval. A silent symbol was not traded then.'),
    ('coverage', 'version', 'Position of the raw record: log generation * 2^40 + offset.'),
    ('feeds', NULL, 'The state of each feed in each partition of the log.'),
    ('feeds', 'feed', 'Name of the feed.'),
    ('feeds', 'partition', 'Partition of the log.'),
    ('feeds', 'state', 'up, down, ended or unknown.'),
    ('feeds', 'since', 'Start of the state. Null if unknown.'),
    ('feeds', 'reason', 'Cause of the state, as text.'),
    ('feeds', 'late_ticks', 'Count of ticks that arrived after their bar could be revised: stored, but in no bar.'),
    ('feeds', 'unsupported', 'Count of ticks and bars that could not be used, or not for all their bars.'),
    ('feeds', 'differences', 'Count of bars that another source reports with other values.'),
    ('feeds', 'version', 'Position of the raw record: log generation * 2^40 + offset.'),
    ('feeds', 'sent_at', 'Time at which the state was written.'),
    ('answers', NULL, 'Answers of vendors to requests for bars, without the bars: why a bar is missing. The newest answer for each instant.'),
    ('answers', 'symbol', 'Name of the instrument.'),
    ('answers', 'interval', 'Interval of the requested bars.'),
    ('answers', 'from_time', 'Start of the range, inclusive.'),
    ('answers', 'to_time', 'End of the range, exclusive.'),
    ('answers', 'source', 'Vendor that answered. Empty if no vendor was left to ask.'),
    ('answers', 'verdict', 'answered: bars that are missing had no trades. Otherwise no_data, quota, outage, not_offered or differs.'),
    ('answers', 'note', 'Text of the vendor. Null without a text.'),
    ('answers', 'again_at', 'Time from which a new request may succeed. Null if no request is useful.'),
    ('answers', 'version', 'Position of the raw record: log generation * 2^40 + offset.'),
    ('answers', 'arrived_at', 'Time at which the row was last written.'),
    ('dead_letters', NULL, 'Records and rows that could not be read, by their position in market.deadletter.'),
    ('dead_letters', 'partition', 'Partition of market.deadletter.'),
    ('dead_letters', 'offset', 'Offset in market.deadletter.'),
    ('dead_letters', 'row', 'Row within the record.'),
    ('dead_letters', 'from_topic', 'Topic of the unreadable record, or the name of the feed.'),
    ('dead_letters', 'from_partition', 'Partition of the unreadable record.'),
    ('dead_letters', 'from_offset', 'Offset of the unreadable record. -1 if it never reached the log.'),
    ('dead_letters', 'reason', 'Cause, as text.'),
    ('dead_letters', 'payload', 'Bytes of the unreadable record or row.'),
    ('dead_letters', 'sent_at', 'Time at which the dead letter was written.'),
    ('source_order', NULL, 'Ranks of sources in force in each partition of the log: the setting rules.sources.'),
    ('source_order', 'partition', 'Partition of the log.'),
    ('source_order', 'sources', 'Patterns of sources, best first.'),
    ('retention', 'relation', 'Name of the table.'),
    ('jobs', NULL, 'Scheduled jobs of the plant, and the result of their last run.'),
    ('jobs', 'name', 'Name of the job.'),
    ('jobs', 'every', 'Time between two runs.'),
    ('jobs', 'started_at', 'Start of the last run.'),
    ('jobs', 'finished_at', 'End of the last run.'),
    ('jobs', 'succeeded_at', 'End of the last run without an error.'),
    ('jobs', 'ok', 'True if the last run had no error. Null before the first run.'),
    ('jobs', 'runs', 'Count of runs.'),
    ('jobs', 'failures', 'Count of runs with an error.'),
    ('jobs', 'detail', 'Result or error of the last run, as text.'),
    ('arrivals', NULL, 'Last arrival of rows in each range of time, and ranges whose check roll-ups are not up to date.'),
    ('arrivals', 'relation', 'Name of the table.'),
    ('arrivals', 'starts_at', 'Start of the range, inclusive.'),
    ('arrivals', 'ends_at', 'End of the range, exclusive.'),
    ('arrivals', 'partition', 'Partition of the log.'),
    ('arrivals', 'arrived_at', 'Time of the last arrival of rows.'),
    ('arrivals', 'dirty_from', 'Earliest time of rows that are not yet in the check roll-up. Null if there are none.'),
    ('arrivals', 'claimed_from', 'Start of the range that a run of the roll-up recomputes. Null if none does.'),
    ('alerts', NULL, 'Alert rules. A removed rule remains until the log contains its removal.'),
    ('alerts', 'id', 'Id of the rule.'),
    ('alerts', 'revision', 'Count of changes of the rule.'),
    ('alerts', 'removed', 'True if the rule is removed.'),
    ('alerts', 'symbol', 'Name of the instrument.'),
    ('alerts', 'interval', 'Interval of the bars.'),
    ('alerts', 'left', 'Left operand of the comparison.'),
    ('alerts', 'operator', 'Operator of the comparison.'),
    ('alerts', 'right', 'Right operand of the comparison.'),
    ('alerts', 'bars', 'Count of bars for which the condition must be true.'),
    ('alerts', 'when', 'bar: closed bars are checked. update: every update is checked.'),
    ('alerts', 'once', 'True if the rule stops after it has fired.'),
    ('alerts', 'active', 'True if the rule is checked.'),
    ('alerts', 'webhook', 'Address of the webhook. It may contain a token. Null without a webhook.'),
    ('alerts', 'secret', 'Key that signs the webhooks. No answer of the API contains it.'),
    ('alerts', 'created_at', 'Time at which the rule was added.'),
    ('alerts', 'changed_at', 'Time of the last change.'),
    ('alert_firings', NULL, 'Fired alerts. Their rows commit with the positions of market.alerts.'),
    ('alert_firings', 'alert_id', 'Id of the fired alert, equal in every replay.'),
    ('alert_firings', 'rule_id', 'Id of the rule.'),
    ('alert_firings', 'rule_revision', 'Revision of the rule.'),
    ('alert_firings', 'symbol', 'Name of the instrument.'),
    ('alert_firings', 'interval', 'Interval of the bar.'),
    ('alert_firings', 'time', 'Start of the bar.'),
    ('alert_firings', 'rule', 'Condition, as text.'),
    ('alert_firings', 'left', 'Value of the left operand.'),
    ('alert_firings', 'right', 'Value of the right operand.'),
    ('alert_firings', 'state', 'State of the bar: forming or final.'),
    ('alert_firings', 'revised', 'True if a revision of a bar caused the alert.'),
    ('alert_firings', 'version', 'Position of the raw record: log generation * 2^40 + offset.'),
    ('alert_firings', 'fired_at', 'Time at which the alert fired.'),
    ('alert_webhooks', NULL, 'Outbox of webhooks: their bodies, next attempts and results.'),
    ('alert_webhooks', 'alert_id', 'Id of the fired alert.'),
    ('alert_webhooks', 'rule_id', 'Id of the rule.'),
    ('alert_webhooks', 'body', 'Body of the POST, as JSON.'),
    ('alert_webhooks', 'state', 'pending, delivered or failed.'),
    ('alert_webhooks', 'attempts', 'Count of attempts.'),
    ('alert_webhooks', 'created_at', 'Time at which the row was written.'),
    ('alert_webhooks', 'next_at', 'Time of the next attempt.'),
    ('alert_webhooks', 'finished_at', 'Time of the delivery or of the last attempt. Null while pending.'),
    ('alert_webhooks', 'error', 'Error of the last attempt. Empty without an error.'),
    ('compression', 'relation', 'Name of the table.'),
    ('compression', 'after', 'Age of the end of a chunk at which it is compressed.'),
    ('compression', 'length', 'Maximum length of a chunk of old rows.'),
    ('schema_migrations', NULL, 'Migrations that have been applied to this database.'),
    ('schema_migrations', 'number', 'Number of the migration.'),
    ('schema_migrations', 'name', 'Name of its file.'),
    ('schema_migrations', 'checksum', 'SHA-256 of its file.'),
    ('schema_migrations', 'flavour', 'timescaledb or postgresql.'),
    ('schema_migrations', 'applied_at', 'Time at which it was applied.');

DO $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT c.relation, k.relkind, c.name, c.text FROM column_comments AS c
        JOIN pg_class AS k ON k.oid = to_regclass(quote_ident(c.relation))
        WHERE c.name IS NULL OR EXISTS (SELECT FROM pg_attribute AS a
            WHERE a.attrelid = k.oid AND a.attname = c.name AND NOT a.attisdropped)
    LOOP
        IF item.name IS NOT NULL THEN
            EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', item.relation, item.name, item.text);
        ELSIF item.relkind = 'v' THEN
            EXECUTE format('COMMENT ON VIEW %I IS %L', item.relation, item.text);
        ELSE
            EXECUTE format('COMMENT ON TABLE %I IS %L', item.relation, item.text);
        END IF;
    END LOOP;
    -- Columns of indicators. Columns that are added later get the same comment.
    FOR item IN
        SELECT t.relation, a.attname AS name
        FROM unnest('{intraday_analytics,daily_analytics,realtime_analytics}'::text[]) AS t (relation)
        JOIN pg_attribute AS a ON a.attrelid = to_regclass(t.relation)
        WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid = 'double precision'::regtype
    LOOP
        EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', item.relation, item.name,
            'Indicator value for the bar. Null during the warm-up, and while the indicator is not configured.');
    END LOOP;
END
$$;
