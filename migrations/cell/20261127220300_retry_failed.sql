-- A message that failed is never reopened: a new one takes its place, and people count by the newest.
alter table messages add column retried_by uuid;
comment on column messages.retry_of is 'The message that failed and that this one takes the place of; its id is that one''s with the next step.';
comment on column messages.retried_by is 'The message that took this one''s place: what becomes of this one counts no more. Null for almost all.';
