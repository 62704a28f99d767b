-- A few people, lots and bookings. Ids are given so that examples can name them.

insert into public.app_user (id, name, email) overriding system value values
  (3, 'Otto',  'otto@example.com'),     -- owns lot 1
  (4, 'Olga',  'olga@example.com'),     -- owns lot 2
  (7, 'Dora',  'dora@example.com'),     -- drives
  (8, 'David', 'david@example.com');    -- drives

insert into public.parking_lot (id, owner_id, name) overriding system value values
  (1, 3, 'Harbour Garage'),
  (2, 4, 'Station Yard');

insert into public.parking_slot (id, lot_id, label) overriding system value values
  (11, 1, 'A1'), (12, 1, 'A2'), (13, 1, 'A3'), (21, 2, 'B1'), (22, 2, 'B2');

insert into public.booking (id, user_id, slot_id, start_time, end_time, status) overriding system value values
  (101, 7, 11, now(),                     now() + interval '2 hours', 'booked'),
  (102, 7, 12, now() - interval '3 hours', now() - interval '1 hour', 'checked_in'),
  (103, 7, 13, now() + interval '1 day',  now() + interval '26 hours', 'booked'),
  (104, 8, 21, now(),                     now() + interval '4 hours', 'booked');

insert into public.payment (id, booking_id, user_id, amount, method, status, is_renewal) overriding system value values
  (201, 101, 7, 12.50, 'cash', 'pending', false),
  (202, 101, 7,  6.00, 'card', 'pending', true),
  (203, 103, 7,  6.00, 'card', 'pending', true),
  (204, 104, 8, 20.00, 'cash', 'pending', false);

insert into public.carwash (id, booking_id, service, status) overriding system value values
  (301, 101, 'inside and out', 'in_progress');

insert into public.employee (id, name) overriding system value values
  (401, 'Ezra'), (402, 'Edda');

-- Ids given by hand leave the sequences behind.
select setval(pg_get_serial_sequence('public.' || t, 'id'), 1000)
from unnest(array['app_user', 'parking_lot', 'parking_slot', 'booking', 'payment', 'carwash', 'employee']) as t;
