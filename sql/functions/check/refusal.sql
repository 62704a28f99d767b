-- notifier.refusal: why what an event runs can be planned no more, and what to do.
--   _d         the event
--   _part      what cannot: due or until; otherwise its query, with its message and data
--   _tables    the common table expressions that its query reads
--   _message   what Postgres said
--   returns    one row
-- Used by: notifier.check_event.
create or replace function notifier.refusal(_d notifier.definition, _part text, _tables text, _message text, out problem text, out fix text)
language plpgsql as $$
declare
  _text text := case refusal._part when 'due' then _d.due when 'until' then _d.until end;
  _type text;
  _detail text;
  _hint text;
begin
  -- By themselves: do the query, or the instant, fail, or what we make of them?
  begin
    if _text is null then
      execute format(E'explain (costs off) with %s select * from (\n%s\n) q', refusal._tables, _d.query);
    else
      execute format(E'explain (costs off) select (\n%s\n) from %s s', _text, _d.source);
      -- Of a row of nulls, so that no row is read.
      execute format(E'select pg_typeof((\n%s\n)) from (select (null::%s).*) s', _text, _d.source) into _type;
    end if;
    raise exception using errcode = 'NTF00';
  exception
    when sqlstate 'NTF00' then
      if _text is null then
        problem := 'the query returns something else than when it was defined: ' || refusal._message;
        fix := notifier.define_statement(_d, notifier.source_now(_d));
      else
        problem := format('%s is of type %s, not timestamptz', refusal._part, _type);
        fix := format('Define it again, and say which zone it is in: (%s) at time zone ''Europe/Berlin''', btrim(_text));
      end if;
    when others then
      get stacked diagnostics _detail = pg_exception_detail, _hint = pg_exception_hint;
      select replace(e.message, notifier.title(_d) || ': ', ''), e.hint || case e.state when '42501' then '' else ' Then define it again.' end into problem, fix
      from notifier.query_error(_d, case when _text is null then 'the query' else refusal._part end, refusal._tables,
        coalesce(_text, _d.query), sqlstate, sqlerrm, _detail, _hint) e;
  end;
end
$$;
