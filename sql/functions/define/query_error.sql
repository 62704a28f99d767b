-- notifier.query_error: what Postgres says of a query, in words that say what to type instead.
-- (It recognizes names in the English texts of Postgres; elsewhere the text of Postgres stands with a general hint.)
--   _d              the definition
--   _part           the query, due, until, or the message
--   _with, _query   what notifier.probe tried
--   _state, _message, _detail, _hint   what Postgres said
--   state, message, detail, hint       what to say; none is null
-- Used by: notifier.probe, notifier.refusal.
create or replace function notifier.query_error(
  _d notifier.definition, _part text, _with text, _query text, _state text, _message text, _detail text, _hint text,
  out state text, out message text, out detail text, out hint text
)
language plpgsql as $function$
declare
  _title   text    := notifier.title(query_error._d) || ': ' || query_error._part;
  _kind    text    := (query_error._d).kind;
  _instant boolean := query_error._part in ('due', 'until');
  _source  regclass := (query_error._d).source;
  _best    text    := notifier.offers(_kind, (query_error._d).operation, 'best');
  _offered text[]  := string_to_array(notifier.offers(_kind, (query_error._d).operation, 'list'), ',');
  _columns text[];
  _tables  text[];
  _name    text;
  _near    text;
begin
  query_error.state := query_error._state;
  query_error.message := format('%s cannot run: %s', _title, query_error._message);
  query_error.detail := nullif(query_error._detail, '');
  query_error.hint := nullif(query_error._hint, '');

  case
    when query_error._state = '42P11' or query_error._state = '42601' and query_error._message ~ 'at or near ";"' then
      query_error.state := '42601';
      query_error.message := _title || ' is more than one statement';
      query_error.detail := 'A semicolon stands in the middle of it. Nothing of it was run.';
      query_error.hint := 'Write one SELECT; a semicolon at its end may stay. Several events are several calls.';

    when query_error._state = '42601' and query_error._message ~ 'unterminated' then
      query_error.message := _title || ' opens a quote or a comment and does not close it';
      query_error.detail := 'All that follows would belong to it.';
      query_error.hint := 'Close it. Between $$ and $$ a quote is written once: query => $$ select ... where status = ''paid'' $$.';

    when query_error._state = '42601' and query_error._message ~ 'INTO is not allowed' then
      query_error.message := _title || ' puts its rows INTO something';
      query_error.detail := 'A query only reads: each row it returns tells a user.';
      query_error.hint := 'Leave out "into ...".';

    when query_error._state = '42601' and query_error._message ~ 'syntax error' then
      query_error.message := format('%s cannot be read: %s', _title, query_error._message);
      query_error.detail := case when query_error._message ~ '"\)"|at end of input|"notifier query"'
        then 'It ends where something has to follow, or its parentheses do not match.'
        else 'Postgres understands it up to there.' end;
      query_error.hint := case when _instant then format('Try it by itself: select %s from %s;',
          btrim(case query_error._part when 'due' then (query_error._d).due else (query_error._d).until end, E' \t\r\n'), _source)
        else format('Try the SELECT by itself, with %s in the place of `%s`.', _source, _best) end;

    when query_error._state = '42P02' then
      query_error.message := format('%s has a parameter, %s', _title, coalesce(substring(query_error._message from '\$\d+'), '$1'));
      query_error.detail := 'Nobody is there to give it a value when the application writes.';
      query_error.hint := format('Read the value from a column of `%s`, or write it as a constant.', _best);

    when query_error._state = '0A000' and query_error._message ~ 'data-modifying' then
      query_error.message := _title || ' writes to a table';
      query_error.detail := 'A query only reads: it runs within the application''s write, and once more where that is cheaper.';
      query_error.hint := format('Leave out the insert, update or delete and read `%s`. What has to be written is for a trigger of the application''s.', _best);

    when _instant and query_error._state in ('42803', '42P20', '0A000') then
      query_error.message := format('%s is not one value for one row: %s', _title, query_error._message);
      query_error.detail := 'It is asked of each row by itself, when it is written and when its time has come.';
      query_error.hint := 'Write an expression over the columns of one row: end_time - interval ''5 minutes''';

    when query_error._state = '42803' then
      query_error.detail := coalesce(query_error.detail, 'With GROUP BY or an aggregate, one row stands for many.');
      query_error.hint := 'Add the column to GROUP BY, or say which of its values: max(amount), count(*).';

    when query_error._state = '42702' then
      query_error.detail := coalesce(query_error.detail, 'More than one table in FROM has a column of that name.');
      query_error.hint := format('Write the table before it, as in %s.%s.', _best,
        coalesce(substring(query_error._message from '"([^"]+)"'), 'id'));

    when query_error._state = '42701' then
      _name := coalesce(substring(query_error._message from '"([^"]+)"'), 'of one name');
      if _name = '?column?' then
        query_error.state := '42601';
        query_error.message := _title || ' has no names for its columns';
        query_error.detail := 'Every column but user_id becomes a key of `data`.';
        query_error.hint := 'Give each one: count(*) as bookings.';
      else
        query_error.message := format('%s has two columns %s', _title, _name);
        query_error.detail := 'Every column but user_id becomes a key of `data`, and a key stands there once.';
        query_error.hint := format('Leave one out, or give it another name: ... as other_%s.', replace(_name, ' ', '_'));
      end if;

    when query_error._state = '42P16' and query_error._message ~ 'pseudo-type' then
      _name := coalesce(substring(query_error._message from '"([^"]+)"'), 'a row');
      query_error.message := format('%s has a column of no type, %s', _title, _name);
      query_error.detail := case when _name = 'was' then '`was` is the old row as a whole, and * takes it along.'
        else 'A row made of columns has none.' end;
      query_error.hint := case when _name = 'was' then 'Name the columns: select user_id, id, (was).id as id_before from changed.'
        else 'Write its columns one by one, or to_jsonb(...) of it.' end;

    when query_error._state = '42P16' and query_error._message ~ 'temporary' then
      query_error.message := _title || ' reads a temporary table';
      query_error.detail := 'Only your own session has it; the application''s do not.';
      query_error.hint := 'Write every table with its schema, as in public.parking_lot.';

    when query_error._state = '42501' then
      _tables := notifier.missing_grants(query_error._d, query_error._with, query_error._query);
      query_error.message := format('%s may not be run by %I: %s', _title, current_user, query_error._message);
      query_error.detail := format('Events run as %I, the owner of the schema notifier, and need these grants.', current_user);
      query_error.hint := case when _tables <> '{}' then 'As the owner of what is read: ' || array_to_string(_tables, ' ')
        else format('As its owner, grant %I what is missing.', current_user) end;

    when query_error._state = '42703' then
      _name := coalesce(substring(query_error._message from 'column "([^"]+)"'),
        substring(query_error._message from 'column (?:\S+\.)?"?([^" ]+?)"? does not exist'));
      _columns := array(select a.attname::text from pg_catalog.pg_attribute a
                        where a.attrelid = _source and a.attnum > 0 and not a.attisdropped and a.attgenerated <> 'v' order by a.attnum);
      _near := notifier.nearest(_name, _columns);
      query_error.detail := format('%s has: %s.', _source,
        (select string_agg(quote_ident(c), ', ') from unnest(_columns) c));
      if exists (select from pg_catalog.pg_attribute a
                 where a.attrelid = _source and a.attname = _name and not a.attisdropped and a.attgenerated = 'v') then
        query_error.message := format('%s reads %I, a virtual generated column', _title, _name);
        query_error.detail := 'Postgres computes it when the table is read; the rows that a trigger sees do not have it.';
        query_error.hint := (
          select format('Write its expression instead: %s. Or, as the owner of the table, make it stored: alter table %s drop column %I, add column %I %s generated always as (%s) stored;',
                        pg_get_expr(d.adbin, d.adrelid, true), _source, _name, _name, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid, true))
          from pg_catalog.pg_attribute a join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
          where a.attrelid = _source and a.attname = _name);
      elsif _name in ('ctid', 'xmin', 'xmax', 'cmin', 'cmax', 'tableoid') then
        query_error.message := format('%s reads %s, a system column', _title, _name);
        query_error.hint := 'Only rows of tables have system columns, and what a statement changed is no table. Name rows by their key.';
      elsif exists (select from unnest(_columns) c where c <> _name and lower(c) = _name) then
        query_error.hint := (select format('Write it with its double quotes: %I.', c) from unnest(_columns) c where lower(c) = _name limit 1);
      elsif position('"' || _name || '"' in query_error._query) > 0 and _name is distinct from lower(_name)
        and lower(_name) = any (_columns) then
        query_error.hint := format('Write it without the double quotes, or in lower case: %s.', lower(_name));
      elsif position('"' || _name || '"' in query_error._query) > 0 and _near is null then
        query_error.hint := format('Between double quotes stands the name of a column. For a text write single ones: %L.', _name);
      elsif _name <> lower(_name) or lower(_name) <> all (_columns) then
        query_error.hint := case
          when _near is not null and (_instant or query_error.hint is null) then format('Perhaps you meant %I.', _near)
          when _instant then 'Write a column of the row. A constant is written as timestamptz ''infinity''.'
          else coalesce(query_error.hint, 'Write a column that is there; another table''s have to be joined.') end;
      end if;
      query_error.hint := coalesce(query_error.hint, 'Perhaps you meant ' || quote_ident(_near) || '.', 'Write a column that is there.');

    when query_error._state = '42P01' and query_error._message ~ 'FROM-clause entry for table "was"' then
      query_error.message := _title || ' reads a column of `was` without parentheses';
      query_error.detail := '`was` is a column of `changed`: the old row as a whole.';
      query_error.hint := 'Write (was).' || coalesce(
        substring(query_error._query from '(?i)\mwas\.("[^"]+"|[[:alpha:]_][\w$]*)'), 'status') || ', with the parentheses.';

    when query_error._state = '42P01' then
      _name := coalesce(substring(query_error._message from '"([^"]+)"'), 'a table');
      if query_error._message ~ 'FROM-clause entry' then
        query_error.message := format('%s reads a column of %s, which is not in its FROM', _title, _name);
        query_error.detail := coalesce(query_error.detail, 'FROM names what is read.');
        query_error.hint := coalesce(query_error.hint, case
          when _name = any (_offered) then format('Write it there: from %s.', _name)
          when _name in ('new', 'old', 'changed', 'due') then notifier.offers(_kind, (query_error._d).operation, 'words')
          else format('Join it there, with its schema, or correct the alias %s.', _name) end);
      elsif _name in ('new', 'old', 'changed', 'due') then
        query_error.message := format('%s reads `%s`, which there is not', _title, _name);
        query_error.detail := notifier.offers(_kind, (query_error._d).operation, 'words');
        query_error.hint := case
          when _kind = 'timer' then 'Write from due.'
          when _name = 'due' then 'Write from ' || _best || '. For an event that time brings, call notifier.define_timer.'
          else format('Write from %s, or define it for %s.', _best,
            case when _name = 'old' then 'operation => ''update''' else 'operation => ''insert or update''' end) end;
      else
        -- By its name alone in whatever schema, then by the likeness of its name.
        _tables := array(
          select c.oid::regclass::text from pg_catalog.pg_class c
          where c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relpersistence <> 't'
            and c.relname = substring(_name from '[^.]+$')
            and c.relnamespace not in ('notifier'::regnamespace, 'pg_catalog'::regnamespace, 'information_schema'::regnamespace)
          order by 1 limit 5);
        if _tables = '{}' then
          _near := notifier.nearest(substring(_name from '[^.]+$'), _offered || array(
            select c.relname::text from pg_catalog.pg_class c
            where c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relpersistence <> 't' and not c.relispartition
              and c.relnamespace not in ('notifier'::regnamespace, 'pg_catalog'::regnamespace, 'information_schema'::regnamespace)
            order by abs(length(c.relname) - length(_name)) limit 200));
          _tables := case when _near = any (_offered) then array[_near] else array(
            select c.oid::regclass::text from pg_catalog.pg_class c
            where c.relname = _near and c.relkind in ('r', 'p', 'v', 'm', 'f')
              and c.relnamespace not in ('notifier'::regnamespace, 'pg_catalog'::regnamespace, 'information_schema'::regnamespace)
            order by 1 limit 5) end;
          query_error.hint := 'Perhaps you meant ' || nullif(array_to_string(_tables, ' or '), '') || '.';
        else
          query_error.hint := case when position('.' in _name) > 0 then 'Perhaps you meant ' else 'Write it with its schema: ' end
            || array_to_string(_tables, ' or ') || '.';
        end if;
        query_error.message := format('%s reads %s, and there is no such table', _title, _name);
        query_error.detail := case when position('.' in _name) > 0 then 'No table or view has this name.'
          else 'Names are looked up without a search_path, so that no temporary table can take the place of one.' end;
        query_error.hint := coalesce(query_error.hint, 'Write a table that is there, with its schema, as in public.parking_lot.');
      end if;

    when query_error._state = '3F000' then
      _name := substring(query_error._message from '"([^"]+)"');
      query_error.detail := 'There are: ' || (
        select string_agg(quote_ident(n.nspname), ', ' order by n.nspname) from pg_catalog.pg_namespace n
        where n.nspname !~ '^pg_' and n.nspname not in ('notifier', 'information_schema')) || '.';
      query_error.hint := coalesce('Perhaps you meant ' || quote_ident(notifier.nearest(_name, array(
        select n.nspname::text from pg_catalog.pg_namespace n where n.nspname !~ '^pg_' and n.nspname <> 'notifier'))) || '.',
        'Write the schema that the table is in.');

    when query_error._state in ('42883', '42704', '42809') then
      _name := substring(query_error._message from '(?:function|type|procedure) "?([^ "(]+)');
      _tables := array(
        select p.oid::regproc::text from pg_catalog.pg_proc p
        where query_error._message ~ '^function' and p.proname = _name
          and p.pronamespace not in ('notifier'::regnamespace, 'pg_catalog'::regnamespace)
        union
        select t.oid::regtype::text from pg_catalog.pg_type t
        where query_error._message ~ '^type' and t.typname = _name and t.typnamespace <> 'pg_catalog'::regnamespace
        union
        select format('operator(%s.%s)', o.oprnamespace::regnamespace, o.oprname) from pg_catalog.pg_operator o
        where query_error._message ~ '^operator' and o.oprnamespace <> 'pg_catalog'::regnamespace
          and position(' ' || o.oprname || ' ' in query_error._message) > 0
        order by 1 limit 3);
      query_error.detail := case
        when _tables <> '{}' then 'Names are looked up without a search_path: outside of pg_catalog they need their schema.'
        when query_error._message ~ '^operator' then 'Postgres converts only what loses nothing.'
        when query_error._message ~ '^type' then 'No type has this name.'
        else 'No function of this name takes these arguments.' end;
      query_error.hint := case
        when _tables <> '{}' then format('Write it with its schema: %s.', array_to_string(_tables, ' or '))
        when query_error._message ~ '^operator' then 'Both sides have to be of one type: cast one of them, as in user_id::text = owner.login.'
        when query_error._message ~ '^type' then 'Write a type that is there, with its schema if it is one of yours.'
        else 'Look for it with \df, and cast what it is given to the types that it takes.' end;

    when query_error._state ~ '^(40|53|55|57|58)' then
      query_error.hint := coalesce(query_error.hint, 'It is no mistake of the query''s: define it again when that has passed.');

    when query_error._state like '22%' then
      query_error.detail := coalesce(query_error.detail, 'A constant in it gives this whatever the row.');
      query_error.hint := 'Write a constant of the type that it is compared with or cast to.';
    else
  end case;

  query_error.detail := coalesce(query_error.detail, 'Nothing was changed.');
  query_error.hint := coalesce(query_error.hint, case when _instant
    then 'It has to be an expression over the columns of one row: end_time - interval ''5 minutes'''
    else 'It has to be one SELECT that Postgres can plan.' end);
end
$function$;
