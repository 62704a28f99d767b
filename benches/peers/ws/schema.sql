-- What users of the Node peers write: the row that is to be told, an outbox, and a trigger that fills it and notifies.
create table happening (id bigint generated always as identity primary key, user_id text not null, n bigint not null);
create table outbox (id bigint generated always as identity primary key, user_id text not null, notification json not null);

create function tell() returns trigger language plpgsql as $$
declare
  _notification json := json_build_object(
    'type', 'info', 'message', format('Number %s happened.', new.n), 'id', new.id::text, 'event', 'bench.happened',
    'data', json_build_object('n', new.n), 'created_at', now());
begin
  insert into outbox (user_id, notification) values (new.user_id, _notification);
  perform pg_notify('notification', json_build_object('user', new.user_id, 'notification', _notification)::text);
  return null;
end
$$;
create trigger tell after insert on happening for each row execute function tell();
