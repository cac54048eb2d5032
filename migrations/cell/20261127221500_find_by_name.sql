-- Campaigns, lists and templates are found by the beginning of their name, as contacts are. The name as it is compared
-- is written by the program: the database's own lower() depends on its locale, and what is no leakproof operator becomes
-- no index condition under row-level security.
--
-- A program older than this leaves the column of what it makes empty: until the thing is renamed, it is found in its list
-- and by its id alone.

alter table campaigns add column name_normalized text not null default '';
alter table contact_lists add column name_normalized text not null default '';
alter table templates add column name_normalized text not null default '';

comment on column campaigns.name_normalized is 'The name with single spaces and small letters: prefix search by >= and <.';
comment on column contact_lists.name_normalized is 'As campaigns.name_normalized.';
comment on column templates.name_normalized is 'As campaigns.name_normalized.';

update campaigns set name_normalized = lower(btrim(regexp_replace(name, '\s+', ' ', 'g')));
update contact_lists set name_normalized = lower(btrim(regexp_replace(name, '\s+', ' ', 'g')));
update templates set name_normalized = lower(btrim(regexp_replace(name, '\s+', ' ', 'g')));

create index campaigns_name_normalized_idx on campaigns (tenant_id, name_normalized, id);
create index contact_lists_name_normalized_idx on contact_lists (tenant_id, name_normalized, id);
create index templates_name_normalized_idx on templates (tenant_id, name_normalized, id);
