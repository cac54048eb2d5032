-- A demo tenant that is reset is filled anew, once, however often the job that does it runs.
alter table tenants add column demo_filled_version bigint not null default 0;
comment on column tenants.demo_filled_version is 'The version of the directory for which a demo tenant was filled last: whoever still clears it for that version leaves what is there.';
