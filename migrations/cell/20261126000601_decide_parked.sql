-- A person decides over a parked message in the request's own transaction, beside its audit entry. So the application may
-- say how an attempt ended; it still makes none.
grant update (state, resolved_by, resolved_at) on send_attempts to engageninja_app;

-- A row stands here only while a person has to decide, so the hot path pays nothing for it; without it, every look at what
-- is parked would read all messages.
create index messages_parked on messages (tenant_id, id) where phase = 5;
