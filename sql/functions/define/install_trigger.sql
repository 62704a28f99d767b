-- notifier.install_trigger: make sure that a table, its partitions and its inheritance children call the generated function.
-- Creating a trigger waits for writers and makes them wait: it is tried for 100 ms at a time, and given up after 20 tries.
--   _source      the table
--   _operation   insert, update or delete
--   _function    the generated function
--   returns      what was done, a line for each table; nothing where the trigger was there
--   raises       55P03 when writers never let it in, 42501 without the right to create triggers
-- Used by: notifier.define.
create or replace function notifier.install_trigger(_source regclass, _operation text, _function text) returns setof text
language plpgsql
set lock_timeout = '100ms' as $$
declare
  _name   text := notifier.trigger_name(install_trigger._operation, install_trigger._function);
  -- A row written directly to a partition or child fires nothing on its parent.
  _tables regclass[] := array(
    select c.oid::regclass from notifier.family(install_trigger._source) f(id) join pg_catalog.pg_class c on c.oid = f.id
    where c.relkind in ('r', 'p')
      and not exists (select from pg_catalog.pg_trigger t
                      where t.tgrelid = c.oid and t.tgname = _name and t.tgfoid = (install_trigger._function || '()')::regprocedure));
  _table  regclass;
begin
  for _try in 1..20 loop
    -- All or none: what one try has locked is given back before the next.
    begin
      foreach _table in array _tables loop
        execute notifier.trigger_statement(_table, install_trigger._operation, install_trigger._function);
      end loop;
      exit;
    exception
      when lock_not_available then
        if _try = 20 then
          raise exception 'the trigger on % could not be installed: its writers left no gap', _table
            using errcode = 'lock_not_available',
                  hint = 'Nothing was changed. Look in pg_stat_activity for a transaction that stays open on it, and define again.';
        end if;
        perform pg_sleep(0.05 + random() / 10);   -- let the writers that queued behind us go first
      when insufficient_privilege then
        raise exception 'the role % may not create a trigger on %', current_user, _table
          using errcode = 'insufficient_privilege',
                hint = format('As its owner: grant trigger, select on %s to %I;', _table, current_user);
    end;
  end loop;
  return query select format('trigger %s installed on %s', _name, t) from unnest(_tables) t;
end
$$;
