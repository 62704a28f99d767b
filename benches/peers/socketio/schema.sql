-- The row that is to be told, an outbox, and a trigger that fills it and notifies as @socket.io/postgres-emitter does.
create table happening (id bigint generated always as identity primary key, user_id text not null, n bigint not null);
create table outbox (id bigint generated always as identity primary key, user_id text not null, notification json not null);
create table socket_io_attachments (id bigserial unique, created_at timestamptz default now(), payload bytea);

create function tell() returns trigger language plpgsql as $$
declare
  _notification json := json_build_object(
    'type', 'info', 'message', format('Number %s happened.', new.n), 'id', new.id::text, 'event', 'bench.happened',
    'data', json_build_object('n', new.n), 'created_at', now());
begin
  insert into outbox (user_id, notification) values (new.user_id, _notification);
  perform pg_notify('socket.io#/', json_build_object('uid', 'emitter', 'nsp', '/', 'type', 3, 'data', json_build_object(
    'opts', json_build_object('rooms', json_build_array(new.user_id), 'except', json_build_array(), 'flags', json_build_object()),
    'packet', json_build_object('type', 2, 'data', json_build_array('notification', _notification), 'nsp', '/')))::text);
  return null;
end
$$;
create trigger tell after insert on happening for each row execute function tell();
