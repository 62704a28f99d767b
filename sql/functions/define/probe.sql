-- notifier.probe: try a query against the shape of what it will read, as the role it will run as, and run nothing of it.
--   _d         the definition it is part of
--   _part      for errors: the query, due, until, or the message
--   _with      common table expressions it may read
--   _query     one SELECT, without a semicolon
--   columns    of it, in order: [{"name": .., "type": ..}]
--   tree       how Postgres understood it: the rule of a view of it
--   raises     what Postgres says of it, in the words of notifier.query_error; 0A000 for `for update` and for volatile functions
-- Used by: notifier.define, notifier.probe_instant.
create or replace function notifier.probe(_d notifier.definition, _part text, _with text, _query text, out columns jsonb, out tree text)
language plpgsql
set client_min_messages = warning as $$
declare
  _title  text := notifier.title(probe._d) || ': ' || probe._part;
  _plan   refcursor;
  _line   text;
  _locks  boolean := false;
  _fits   boolean := false;
  _calls  oid[];
  _error  record;
  _detail text;
  _hint   text;
  _name   text;
begin
  begin
    -- A cursor refuses several statements before any of them runs; EXPLAIN checks the grants that a view would not.
    open _plan for execute format(E'explain (costs off) with %s select * from (\n%s\n) q', probe._with, probe._query);
    loop
      fetch _plan into _line;
      exit when not found;
      _locks := _locks or _line ~ 'LockRows';
    end loop;
    close _plan;
    _fits := true;

    begin
      -- The query stands in other words around it here: one that closes our parenthesis cannot fit both.
      execute format(E'create view notifier.probed as with %s, "notifier query" as (\n%s\n) select * from "notifier query"',
        probe._with, probe._query);
      select coalesce(jsonb_agg(jsonb_build_object('name', a.attname, 'type', t.typname) order by a.attnum), '[]')
      into probe.columns
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
      select r.ev_action::text into probe.tree from pg_catalog.pg_rewrite r where r.ev_class = 'notifier.probed'::regclass;
      _calls := notifier.volatile_calls('notifier.probed');
      raise exception using errcode = 'NTF00';
    exception when sqlstate 'NTF00' then
      null;   -- the view is undone
    end;
  exception
    when others then
      if _fits and sqlstate = '42601' then
        raise exception '% closes a parenthesis that it does not open', _title using errcode = 'syntax_error',
          detail = 'What follows would stand outside of the query.', hint = 'Write as many "(" as ")".';
      end if;
      get stacked diagnostics _detail = pg_exception_detail, _hint = pg_exception_hint;
      select * into _error
      from notifier.query_error(probe._d, probe._part, probe._with, probe._query, sqlstate, sqlerrm, _detail, _hint);
      raise exception using errcode = _error.state, message = _error.message, detail = _error.detail, hint = _error.hint;
  end;

  if _locks then
    raise exception '% locks rows', _title using errcode = 'feature_not_supported',
      detail = 'The application''s write would wait for whoever else holds them.',
      hint = 'Leave out "for update" and "for share": what the query reads is the statement''s own snapshot anyway.';
  end if;
  if _calls <> '{}' then
    select p.proname into _name from pg_catalog.pg_proc p where p.oid = _calls[1];
    raise exception '% calls %, which is volatile',
      _title || case when probe.tree !~ format(':(funcid|opfuncid) %s ', _calls[1]) then ' reads a view that' else '' end, _calls[1]::regprocedure using errcode = 'feature_not_supported',
      detail = 'It is evaluated for each write, more than once where that is cheaper: it may read, but neither write nor answer differently each time.',
      hint = case
        when _calls[1] >= 16384 then
          format('If it only reads, say so: alter function %s stable; (a function is volatile until somebody says otherwise)', _calls[1]::regprocedure)
        when _name in ('clock_timestamp', 'timeofday') then 'Write now(): the time at which the transaction began.'
        when _name ~ '^(nextval|currval|lastval|gen_random_uuid|uuidv)' then
          'Leave it out: each notification has an id of its own. For a number of the application''s, read the column that keeps it.'
        when _name ~ '^random|^setseed' then 'Leave it out, or keep what was drawn in a column of the row.'
        else 'Leave it out: whatever is to be done at a write is done by the application, or by a trigger of its own.' end;
  end if;
end
$$;
