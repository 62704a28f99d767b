-- notifier.data_expression: the columns of an event's query but user_id, as an SQL expression over `q` that gives `data`. Numbers go
-- as they are: whoever tells them to browsers knows what those can read (src/protocol/numbers.rs).
--   _columns   of the query: [{"name": .., "type": ..}]
--   returns    an SQL expression of type jsonb
-- Used by: notifier.told_select, notifier.told_rows.
create or replace function notifier.data_expression(_columns jsonb) returns text
language sql stable
return (
  select coalesce(string_agg(format('jsonb_build_object(%s)', chunk.pairs), ' || ' order by chunk.number), '''{}''::jsonb')
  from (
    -- A function takes 100 arguments: 50 columns at a time.
    select (c.position - 1) / 50 as number,
           string_agg(format('%1$L, q.%1$I', c.name), ', ' order by c.position) as pairs
    from (select e.value ->> 'name' as name, row_number() over (order by e.position) as position
          from jsonb_array_elements(data_expression._columns) with ordinality as e(value, position)
          where e.value ->> 'name' <> 'user_id') c
    group by 1
  ) chunk
);
