-- Alert rules as users keep them, what they fired, and the webhooks that are still to be delivered. Few rows, changed in
-- place: plain tables in both flavours.

CREATE TABLE alerts (
    id text PRIMARY KEY,
    revision integer NOT NULL,
    logged_revision integer NOT NULL DEFAULT 0,
    removed boolean NOT NULL DEFAULT false,
    symbol text NOT NULL,
    "interval" text NOT NULL,
    "left" text NOT NULL,
    operator text NOT NULL,
    "right" text NOT NULL,
    bars integer NOT NULL,
    "when" text NOT NULL,
    once boolean NOT NULL,
    active boolean NOT NULL,
    webhook text,
    secret text,
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE alerts IS 'Alert rules. A removed one stays until the log has been told.';
COMMENT ON COLUMN alerts.logged_revision IS 'The newest revision that the log has: where it is less, the rule is still to be sent.';
COMMENT ON COLUMN alerts.secret IS 'Signs the webhooks. Never given back.';

CREATE TABLE alert_firings (
    alert_id text PRIMARY KEY,
    rule_id text NOT NULL,
    rule_revision integer NOT NULL,
    symbol text NOT NULL,
    "interval" text NOT NULL,
    "time" timestamptz NOT NULL,
    rule text NOT NULL,
    "left" double precision NOT NULL,
    "right" double precision NOT NULL,
    state text NOT NULL,
    revised boolean NOT NULL,
    version bigint NOT NULL,
    fired_at timestamptz NOT NULL
);
CREATE INDEX alert_firings_rule ON alert_firings (rule_id, fired_at);
CREATE INDEX alert_firings_fired_at ON alert_firings (fired_at);
COMMENT ON TABLE alert_firings IS 'Alerts that fired, by their identity; written with the positions of market.alerts.';

CREATE TABLE alert_webhooks (
    alert_id text PRIMARY KEY,
    rule_id text NOT NULL,
    body text NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    next_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    error text NOT NULL DEFAULT ''
);
CREATE INDEX alert_webhooks_due ON alert_webhooks (next_at) WHERE state = 'pending';
CREATE INDEX alert_webhooks_failed ON alert_webhooks (finished_at) WHERE state = 'failed';
COMMENT ON TABLE alert_webhooks IS 'The outbox of the webhooks: what is to be posted, when next, and how it went.';

INSERT INTO retention VALUES ('alert_firings', '90 days'), ('alert_webhooks', '30 days');
