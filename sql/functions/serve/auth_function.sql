-- notifier.auth_function: make sure that a function can say whose a token is, before anybody connects.
--   _name     of a function (token text) in a schema, as a DBA writes it: app.authenticate. It returns columns `user_id`, of any
--             type, and `expires_at timestamptz`, null for a token that does not end by itself, and may return others
--   returns   its name as SQL writes it
--   raises    what is wrong with it, and in the hint what one looks like
-- Used by: the service when it starts with --auth sql (src/auth/sql.rs). As who calls it, whose rights are looked at.
create or replace function notifier.auth_function(_name text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp as $function$
declare
  _parts    text[];
  _schema   oid;
  _function pg_proc;
  _written  text;    -- schema.name
  _others   text;
  _columns  text[];
  _types    text[];
  _column   text;
  _example  text;
begin
  begin
    -- With its argument, as psql shows it, it is as good.
    _parts := parse_ident(regexp_replace(auth_function._name, '\(\s*(token\s+)?text\s*\)\s*$', '', 'i'));
  exception when others then
    null;
  end;
  _written := case when cardinality(_parts) = 2 then format('%I.%I', _parts[1], _parts[2]) else 'app.authenticate' end;
  _example := format(
    E'It looks like this; sql/auth has more for tables that are usual.\n'
    'create function %1$s(token text) returns table (user_id text, expires_at timestamptz)\n'
    'language sql stable security definer set search_path = pg_catalog, pg_temp as $$\n'
    '  select s.user_id::text, s.expires_at from app.session s where s.token_hash = sha256(convert_to(token, ''UTF8''))\n'
    '$$;\n'
    'revoke execute on function %1$s(text) from public;\n'
    'grant usage on schema %2$s to %3$I;\n'
    'grant execute on function %1$s(text) to %3$I;',
    _written, case when cardinality(_parts) = 2 then quote_ident(_parts[1]) else 'app' end, current_user);

  if _parts is null then
    raise exception 'the function that knows tokens: % is no name of one', coalesce(quote_literal(auth_function._name), 'null')
      using errcode = 'invalid_name', hint = _example;
  elsif cardinality(_parts) <> 2 then
    -- Whichever the search path of a session leads to would be a surprise one day.
    select string_agg(format('%I.%I', n.nspname, p.proname), ', ' order by n.nspname) into _others
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where p.proname = _parts[cardinality(_parts)] and p.pronargs = 1 and p.proargtypes[0] = 'text'::regtype
      and n.nspname not in ('pg_catalog', 'information_schema', 'notifier');
    raise exception 'the function that knows tokens: % is not of the form schema.function', auth_function._name
      using errcode = 'invalid_name',
        hint = case when _others is null then _example else 'Perhaps you meant ' || _others || '.' end;
  end if;

  _schema := (select n.oid from pg_namespace n where n.nspname = _parts[1]);
  if _schema is null then
    raise exception 'the function that knows tokens, %(text): there is no schema %', _written, quote_ident(_parts[1])
      using errcode = 'invalid_schema_name', hint = _example;
  end if;
  select p.* into _function from pg_proc p
  where p.pronamespace = _schema and p.proname = _parts[2] and p.pronargs = 1 and p.proargtypes[0] = 'text'::regtype;
  if _function.oid is null then
    _others := (
      select string_agg(format('%I(%s)', p.proname, pg_get_function_identity_arguments(p.oid)), ', ')
      from pg_proc p where p.pronamespace = _schema and p.proname = _parts[2]);
    if _others is not null then
      raise exception 'the function that knows tokens, %(text): there is %, and none that takes a text', _written, _others
        using errcode = 'undefined_function', hint = _example;
    end if;
    _others := (
      select 'Of functions (text) the schema has: ' || string_agg(f.name, ', ')
      from (select p.proname::text as name from pg_proc p
            where p.pronamespace = _schema and p.pronargs = 1 and p.proargtypes[0] = 'text'::regtype order by 1 limit 10) f);
    raise exception 'the function that knows tokens, %(text): there is none', _written
      using errcode = 'undefined_function', detail = coalesce(_others, 'The schema has no function (text) at all.'),
        hint = _example;
  end if;
  if _function.prokind <> 'f' then
    raise exception 'the function that knows tokens, %(text): it is %', _written,
      case _function.prokind when 'p' then 'a procedure' when 'a' then 'an aggregate' else 'a window function' end
      using errcode = 'wrong_object_type', hint = _example;
  end if;

  if not has_schema_privilege(_schema, 'usage') then
    raise exception 'the function that knows tokens, %(text): % may not use the schema %', _written, quote_ident(current_user),
      quote_ident(_parts[1])
      using errcode = 'insufficient_privilege', hint = format('grant usage on schema %I to %I;', _parts[1], current_user);
  end if;
  if not has_function_privilege(_function.oid, 'execute') then
    raise exception 'the function that knows tokens, %(text): % may not execute it', _written, quote_ident(current_user)
      using errcode = 'insufficient_privilege',
        hint = format('grant execute on function %s(text) to %I;', _written, current_user);
  end if;

  -- `returns table`, OUT arguments, or a row of a type or table.
  select array_agg(c.name), array_agg(c.type) into _columns, _types
  from (
    select a.name, format_type(a.type, null) as type
    from unnest(_function.proargnames, _function.proallargtypes, _function.proargmodes) as a(name, type, mode)
    where a.mode in ('o', 'b', 't')
    union all
    select a.attname, format_type(a.atttypid, null)
    from pg_attribute a join pg_type t on t.typrelid = a.attrelid
    where t.oid = _function.prorettype and a.attnum > 0 and not a.attisdropped
  ) c;
  if _columns is null then
    raise exception 'the function that knows tokens, %(text): it returns %, and no columns user_id and expires_at', _written,
      pg_get_function_result(_function.oid)
      using errcode = 'datatype_mismatch', hint = _example;
  end if;
  foreach _column in array array['user_id', 'expires_at'] loop
    if _column <> all (_columns) then
      raise exception 'the function that knows tokens, %(text): it returns no column %', _written, _column
        using errcode = 'undefined_column', detail = 'It returns: ' || array_to_string(_columns, ', ') || '.', hint = _example;
    end if;
  end loop;
  if _types[array_position(_columns, 'expires_at')] <> 'timestamp with time zone' then
    raise exception 'the function that knows tokens, %(text): its expires_at is of type %, not timestamptz', _written,
      _types[array_position(_columns, 'expires_at')]
      using errcode = 'datatype_mismatch', detail = 'Without a zone nobody knows which instant it is.', hint = _example;
  end if;
  return _written;
end
$function$;
