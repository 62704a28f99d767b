-- notifier.offers: what a query may read of a statement, in words.
--   _kind        write or timer
--   _operation   of the event
--   _piece       'words'   An update offers `new`, `old` and `changed`.
--                'best'    changed                  what most queries read
--                'list'    new,old,changed
--   returns      the piece
-- Used by: notifier.verify_words, notifier.query_error, notifier.warnings.
create or replace function notifier.offers(_kind text, _operation text, _piece text) returns text
language sql immutable
return case offers._piece
  when 'best' then case when offers._kind = 'timer' then 'due' when offers._operation = 'delete' then 'old' else 'changed' end
  when 'list' then case when offers._kind = 'timer' then 'due' else case offers._operation
    when 'insert' then 'new,changed' when 'delete' then 'old' else 'new,old,changed' end end
  else case when offers._kind = 'timer' then 'A timer offers `due`, the rows whose time has come.' else case offers._operation
    when 'insert' then 'An insert offers `new` and `changed`: nothing was there before.'
    when 'delete' then 'A delete offers `old`: nothing is there any more.'
    when 'update' then 'An update offers `new`, `old` and `changed`.'
    else 'An "insert or update" offers `new`, `old` (empty on insert) and `changed`.' end end
end;
