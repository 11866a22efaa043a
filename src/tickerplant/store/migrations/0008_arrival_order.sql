-- The order of arrival of ticks: the raw record that contains a tick, and its row there. Ticks of one instant are read in
-- this order, also from compressed chunks. Ticks of an earlier version of the plant have 0 in both columns.

ALTER TABLE realtime_prices ADD COLUMN version bigint NOT NULL DEFAULT 0;
ALTER TABLE realtime_prices ADD COLUMN "row" integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN realtime_prices.version IS 'Log generation and offset of the raw record; 0 if unknown.';
COMMENT ON COLUMN realtime_prices."row" IS 'Row within the raw record. The order of arrival is (version, row).';

-- only: timescaledb
-- Chunks that are compressed already keep their order.
ALTER TABLE realtime_prices SET (timescaledb.compress,
    timescaledb.compress_segmentby = 'symbol', timescaledb.compress_orderby = 'time, version, "row"');
-- end
