-- notifier.probe: try a query against the shape of what it will read, as the role it will run as, and run nothing of it.
--   _what      for errors: 'the query of event booking.declined'
--   _with      common table expressions it may read
--   _query     one SELECT, without a semicolon
--   returns    its columns in order: [{"name": .., "type": ..}]
--   raises     what Postgres says of it, with _what before; 42601 for several statements, 0A000 for `for update`
-- Used by: notifier.define, notifier.probe_instant.
create or replace function notifier.probe(_what text, _with text, _query text) returns jsonb
language plpgsql as $$
declare
  _text    text := format(E'with %s select * from (\n%s\n) q', probe._with, probe._query);
  _plan    refcursor;
  _line    text;
  _locks   boolean := false;
  _columns jsonb;
  _detail  text;
  _hint    text;
begin
  begin
    -- A cursor refuses several statements before any of them runs; EXPLAIN checks the grants that a view would not.
    open _plan for execute 'explain (costs off) ' || _text;
    loop
      fetch _plan into _line;
      exit when not found;
      _locks := _locks or _line ~ 'LockRows';
    end loop;
    close _plan;

    begin
      execute 'create view notifier.probed as ' || _text;
      select coalesce(jsonb_agg(jsonb_build_object('name', a.attname, 'type', t.typname) order by a.attnum), '[]')
      into _columns
      from pg_catalog.pg_attribute a
      cross join lateral (
        -- Of a domain the type it is made of, and of a domain over that its type.
        with recursive base as (
          select y.oid, y.typbasetype from pg_catalog.pg_type y where y.oid = a.atttypid
          union all
          select y.oid, y.typbasetype from base b join pg_catalog.pg_type y on y.oid = b.typbasetype
        )
        select format_type(b.oid, null) as typname from base b where b.typbasetype = 0
      ) t
      where a.attrelid = 'notifier.probed'::regclass and a.attnum > 0;
      raise exception using errcode = 'NTF00';
    exception when sqlstate 'NTF00' then
      null;   -- the view is undone
    end;
  exception
    when others then
      if sqlstate = '42P11' or sqlerrm ~ 'at or near ";"' then
        raise exception '% is more than one statement', probe._what using errcode = 'syntax_error',
          hint = 'Write one SELECT; a semicolon at its end may stay.';
      end if;
      get stacked diagnostics _detail = pg_exception_detail, _hint = pg_exception_hint;
      raise exception '% cannot run: %', probe._what, sqlerrm using errcode = sqlstate, detail = coalesce(nullif(_detail, ''), 'Nothing was changed.'),
        hint = coalesce(nullif(_hint, ''), case sqlstate
          when '42703' then 'Check the column''s name; `new`, `old` and `changed` have the columns of the source.'
          when '42P01' then case when sqlerrm ~ 'FROM-clause entry for table "was"' then 'Write (was).column, with the parentheses.'
            else 'Write every table with its schema, as in public.parking_lot. An insert offers `new` and `changed`, an update '
              || '`new`, `old` and `changed`, a delete `old`, a timer `due`.' end
          when '42501' then format('As the owner of that table: grant select on it to %I.', current_user)
          else 'It has to be one SELECT that Postgres can plan.' end);
  end;
  if _locks then
    raise exception '% locks rows', probe._what using errcode = 'feature_not_supported',
      hint = 'Leave out "for update" and "for share": a notification must never make an application wait.';
  end if;
  return _columns;
end
$$;
