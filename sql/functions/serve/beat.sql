-- notifier.beat: a small NOTIFY on the secret channel, which proves to every listener that its LISTEN works.
--   _from     who sends it
-- Used by: the relay once a second; a listener that heard none.
create or replace function notifier.beat(_from text) returns void
language plpgsql volatile security definer   -- which keeps its plan
set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify(s.value, json_build_object('beat', beat._from)::text) from notifier.setting s where s.name = 'channel';
end
$$;
