-- What a DBA adds to an application's table for this project.
create table happening (id bigint generated always as identity primary key, user_id text not null, n bigint not null);

select notifier.define_event(
  name      => 'bench.happened',
  source    => 'public.happening',
  operation => 'insert',
  level     => 'info',
  message   => 'Number {n} happened.',
  query     => $$ select user_id, n from new $$);
