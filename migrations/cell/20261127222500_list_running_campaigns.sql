-- The campaigns that run are read once a second for whoever watches them; most campaigns of a tenant have ended.
create index campaigns_running_idx on campaigns (tenant_id, id desc) where status in ('sending', 'paused');
