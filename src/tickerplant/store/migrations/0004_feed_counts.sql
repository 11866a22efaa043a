-- What was left out of bars, and what sources say differently, is counted by feed beside its late ticks.

ALTER TABLE feeds ADD COLUMN unsupported bigint NOT NULL DEFAULT 0;
ALTER TABLE feeds ADD COLUMN differences bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN feeds.late_ticks IS 'Ticks that were older than what is remembered: stored, but in no bar.';
COMMENT ON COLUMN feeds.unsupported IS 'Ticks and bars that could not be used, or not for all bars that they belong to.';
COMMENT ON COLUMN feeds.differences IS 'Bars that another source gives differently.';
