"""General questions, which need nothing of anybody's history: what a relevance filter compares with."""

from __future__ import annotations

GENERAL_QUESTIONS = tuple(
    line.strip()
    for line in """
What is the capital of Australia?
How many minutes are there in a week?
Convert 45 miles to kilometres.
Who painted the ceiling of the Sistine Chapel?
What is the boiling point of water at sea level?
Explain how a refrigerator works.
What is the square root of 1764?
Write a function that reverses a linked list.
How do I undo the last commit in git?
What does HTTP status 404 mean?
Translate "good morning" into Japanese.
What is the past participle of the verb to swim?
How long should I boil an egg so that it is hard?
What is the difference between weather and climate?
Why is the sky blue?
How far is the moon from the earth?
Which planet has the most moons?
What causes the tides?
When did the Berlin Wall fall?
Who was the first woman to win a Nobel Prize?
List the prime numbers below fifty.
What is compound interest?
How does a bill become a law?
What are the symptoms of a cold?
How much water should an adult drink in a day?
What is the recommended dose of vitamin D?
How do vaccines work?
What is the longest river in Africa?
Which countries border Switzerland?
What time is it in Tokyo when it is noon in London?
How do I change a flat tyre?
How do I remove a coffee stain from a shirt?
What size of screw do I need for a shelf?
How do I reset the password of my account?
Why is my laptop so slow?
What is the difference between a virus and a bacterium?
Summarise the theory of evolution in two sentences.
What is Newton's second law?
Solve 3x + 7 = 22 for x.
What is the derivative of x squared times the sine of x?
Give me a synonym for happy.
Is it "who" or "whom" in this sentence?
Write a polite e-mail that declines an invitation.
Make a shopping list for a week of dinners for two.
How many calories does a banana have?
Can you freeze cooked rice?
What is the best way to sharpen a kitchen knife?
How do I plant tomatoes?
When should roses be pruned?
Which vaccinations does a puppy need?
How do I train a dog to sit?
What is the speed limit on motorways in France?
How do I get from the airport to the city centre?
What documents do I need to renew a passport?
How is income tax calculated?
What is a mortgage?
What is the exchange rate between the euro and the dollar?
How does the stock market work?
What is inflation?
Who wrote Don Quixote?
What is the plot of Hamlet?
How many players are in a football team?
What are the rules of chess?
How long is a marathon?
Who holds the world record in the high jump?
When were the first modern Olympic Games?
What is photosynthesis?
How do bees make honey?
What is the largest mammal?
How old can a tortoise become?
What do pandas eat?
Name three noble gases.
What is the chemical formula of table salt?
How does a nuclear reactor work?
What is the half-life of carbon-14?
Explain recursion to a child.
What is the difference between TCP and UDP?
How do I install Python on Windows?
Sort this list in alphabetical order: pear, apple, fig.
What is a regular expression?
Write a SQL query that counts rows by month.
How do I centre a div?
What is machine learning?
How many bytes are in a gigabyte?
What is the meaning of the word ubiquitous?
Where does the word algebra come from?
How do you say thank you in Swahili?
What is the plural of octopus?
Set a timer for ten minutes.
Remind me to call the dentist tomorrow.
What will the weather be like on Sunday?
Turn off the lights in the kitchen.
Draft a contract for renting a room.
What are my rights if a flight is cancelled?
How do I calculate the area of a circle?
What is the volume of a cylinder with radius 2 and height 5?
What is the probability of rolling two sixes?
Who discovered penicillin?
When did the Second World War end?
What was the Silk Road?
Who built the pyramids?
What language is spoken in Brazil?
What is the population of India?
How high is Mount Everest?
How deep is the Mariana Trench?
What is an earthquake?
How do aeroplanes fly?
What is the difference between alternating and direct current?
How do I read a resistor's colour code?
What does a catalytic converter do?
How often should the oil of a car be changed?
What is the best temperature for washing wool?
How do I get rid of ants?
How do I fold a fitted sheet?
What is a good recipe for pancakes?
How do I make sourdough starter?
What can I use instead of buttermilk?
How many hours of sleep does a child need?
How do I do cardiopulmonary resuscitation?
What is a normal blood pressure?
What should be in a first-aid kit?
How do I meditate?
What is the Pythagorean theorem?
What is the golden ratio?
""".splitlines()
    if line.strip()
)
"""Questions about facts, computing, language, everyday life and errands."""

_LONG_REQUESTS = """
I want to cook a risotto for six people, but the recipe that I have is for four: 320 grams of rice, 1.2 litres of
stock, one onion, a glass of white wine, 60 grams of butter and 80 grams of cheese. Please scale everything up, round
it to amounts that I can measure with a kitchen scale, and tell me whether the cooking time changes.

A train leaves the station at 9:40 and travels at 80 kilometres per hour. A second train leaves the same station half
an hour later on the same line at 110 kilometres per hour. After how many minutes does the second one catch up with
the first, and how far from the station are they then? Show the steps.

My program reads a large file of numbers line by line and adds them up, and it becomes slower and slower while the
memory grows. I keep every line in a list before I add them. Explain why that happens, and show how to write it with a
generator, so that only one line is in memory at a time.

Rewrite the following clause in plain words: the tenant shall, upon the expiration or earlier termination of the
lease, surrender the premises in the same condition as received, reasonable wear and tear excepted, and shall remove
all fixtures installed by the tenant at the tenant's own expense, unless the landlord elects in writing to retain
them.

Photosynthesis takes place in the chloroplasts of plant cells. In the light reactions water is split and oxygen is
given off, while energy is stored in two carriers; in the Calvin cycle these drive the building of sugar from carbon
dioxide. Summarize this for a child of ten in three sentences, and name one thing that the plant needs and one that it
gives back.

I will be in the city for two days in October, with two children of five and eight and a pram. Plan a route for each
day with parks, a playground, a place for lunch and something to do indoors if it rains, and tell me which distances
are short enough to walk and where we should take the tram.

Our heating makes a knocking noise in the morning when it starts, mostly in the radiators of the upper floor, and two
of them are warm at the bottom but cold at the top. The pressure on the gauge is a little under one bar. What can be
wrong, what can I do myself, and when should I call somebody?

Explain the difference between a simple and a weighted average with this example: a student has the grades 80, 90 and
70 in three tests, which count 20, 30 and 50 percent. Compute both, say which one the school would use, and what grade
in the last test would have brought the weighted average to 85.

I have a spreadsheet with a date in column A, a category in column B and an amount in column C. I would like a table
that shows the sum of the amounts for each month and each category, with a total at the end of each row. Which formula
or which kind of table do I need, and how do I keep it up to date when rows are added?

Translate this paragraph into German, and keep it formal: the library will be closed from Monday to Wednesday for the
annual inventory. Books that fall due on these days can be returned on Thursday without a fee. The reading room on the
first floor stays open, and the copying machines can be used as usual with a card.

The wireless network at home works near the router but drops out in the room at the end of the corridor, behind two
brick walls. I have an old second router in a drawer. Can I use it as a repeater, how should I set its address and
channel, and is a cable along the corridor the better solution?

The French Revolution began in 1789 with a crisis of the state's finances, bad harvests and the calling of the Estates
General. Within a few years the monarchy was abolished, a republic was proclaimed, and a period of terror followed.
Make a timeline of ten entries from this, each with a year and at most eight words.

My tomato plants have yellow leaves at the bottom with brown spots that grow from day to day, while the upper leaves
are still green. They stand close together in a greenhouse and I water them from above in the evening. Which disease
is likely, what should I do with the leaves, and how do I water in future?

Write a short regular expression that finds dates of the form day, month and year with dots between, such as
07.11.2021, and does not match numbers of a version like 1.2.3. Explain each part of it, and give three strings that
match and three that do not.

I would like to run ten kilometres in four months. At present I can run for about fifteen minutes without a break, and
I have time on Tuesday, Thursday and Sunday. Make a plan week by week, with the minutes of running and walking, and
tell me how I recognise that I am doing too much.

Two litres of a salt solution of five percent are to become a solution of eight percent. How much salt has to be
added, or how much water has to evaporate instead? Write down both calculations with their units, and say which
quantity stays the same in each of the two cases.

What do I have to think of when I change a punctured inner tube on the back wheel of a bicycle with a derailleur?
Describe how the wheel is taken out and put back, how to find the hole, how to check the tyre for glass, and how to
seat the tyre so that the new tube is not pinched.

I have to give a talk of five minutes about the water cycle to a class of twelve-year-olds. Please write an outline
with an opening question, three parts with one sketch each for the blackboard, a small experiment with a pan and a
cold lid, and a closing sentence that brings it together.

A company sells a machine for 12,000 and writes it off in equal parts over eight years. After five years it is sold
for 5,000. Compute the book value at that time and the profit or loss on the sale, and explain in one sentence why the
tax office cares about it.

In chess, what is the idea behind castling, when is it not allowed, and which side is safer in most games? Give the
conditions as a list, explain what happens to the rook, and describe one position in words in which castling would be
a mistake even though it is legal.

The following table has a name, a height in feet and inches and a weight in pounds on each line. Convert the heights
to centimetres and the weights to kilograms, round to whole numbers, sort the lines by height with the tallest first,
and give the result as a list with commas between.

My cat drinks more than usual, eats well and still loses weight. She is thirteen years old and sleeps a lot. Which
illnesses should a vet look for, which tests are usual, what do they cost about, and is there anything that I should
write down until the appointment?

I am knitting a scarf with a pattern of eight stitches that is repeated, plus three stitches for the edge on each
side. The scarf should be about thirty centimetres wide, and my sample has twenty-two stitches on ten centimetres. How
many stitches should I cast on so that the pattern comes out even?

Explain how a mortgage with a fixed rate differs from one with a variable rate. Use a loan of 200,000 over twenty
years as the example, show the monthly payment at three and at five percent, and say for which kind of household the
one or the other is the more careful choice.

Plate tectonics explains why mountains rise where plates collide, why there are volcanoes along their edges, and why
the coasts of two continents fit together like pieces of a puzzle. Turn this into six questions for a quiz, each with
four answers of which one is right, and mark the right one.

I need a query for a database with two tables: customers with an id, a name and a city, and orders with an id, the id
of the customer, a date and a sum. It should list all cities with the number of customers, the number of orders in the
last year and the mean sum, also those cities without any order.

Please explain how vaccination works, for somebody without any knowledge of medicine: what is in the syringe, what the
body does in the days that follow, why a second dose is often needed, and why a vaccinated person may still fall ill
but usually less badly.

How do I build a simple bookshelf from pine boards without power tools? It should be a metre wide and two metres high,
with five shelves, and bear the weight of heavy books. I need a list of the boards with their lengths, the screws, the
tools, and the order of the steps.

The square of a number is 15 larger than twice the number. Find all numbers for which this is true, first by
completing the square and then with the general formula, check both solutions by putting them in, and draw in words
what the graph of the function looks like.

My telephone is full although I have deleted most of the pictures. The overview says that forty gigabytes are used by
the system and by other data. How can I find out what that is, what may be deleted without harm, and how do I move the
rest to a computer before I reset the device?

Our football team has eleven players and four substitutes, and each of them should play about the same number of
minutes in a match of ninety minutes, except for the goalkeeper, who plays the whole time. Make a plan of the
substitutions with as few interruptions as possible.

What is the legal difference between a guarantee and a warranty when I buy a washing machine from a shop? It broke
after fourteen months, and the shop refers me to the manufacturer. Whom should I write to, what should the letter
contain, and how long should I wait for an answer?

Describe how the moon causes the tides, why there are two high tides each day and not one, why they come a little
later every day, and what the sun has to do with spring tides. Use no formulas, but a comparison from everyday life,
and end with a sentence that can be learned by heart.

I would like to learn to read music. I know where the notes are on the piano, but not what sharps, flats and keys
mean. Make a plan for six weeks with fifteen minutes a day, explain the circle of fifths in simple words, and suggest
an exercise for each week.

Compare three ways to insulate the roof of an old house: between the rafters, on top of them and below them. For each,
tell what it costs about, how thick the layer must be, whether people can stay in the house during the work, and what
goes wrong most often with moisture.

Here is a list of twelve ingredients from my fridge and cupboard: eggs, rice, carrots, a tin of chickpeas, yoghurt,
lemons, garlic, spinach, feta, onions, cumin and half a loaf of bread. Suggest three warm dishes for this evening that
take less than forty minutes, and which of them can be frozen.

A patient has been told that his blood pressure is 150 over 95. Explain what the two numbers mean, from which values
on doctors advise to change something, which habits raise and lower it, and how to measure at home so that the values
can be trusted.

The meeting is at three in the afternoon in New York. Colleagues take part from London, Mumbai, Tokyo and Sydney.
Write down the local time and the day of the week for each of them in the first week of November, mark who would have
to get up at night, and propose a time that is less bad for everybody.

I want to photograph the stars with a camera on a tripod, without any telescope. Which lens, aperture, exposure and
sensitivity should I begin with, how do I focus in the dark, why do the stars become lines when I expose for longer,
and how can I see whether the sky is dark enough?

Philosophers distinguish between what is known before all experience and what is known from it. Explain the difference
with two examples each, say in which of them a calculator would help and in which only a look out of the window, and
name one philosopher on either side.
"""

LONG_REQUESTS = tuple(" ".join(block.split()) for block in _LONG_REQUESTS.strip().split("\n\n"))
"""Longer requests that need nothing of anybody's history either, so that a filter does not learn that long is personal.

None is about what LaMP's users write: reviews, news, films, papers, e-mails.
"""
